"""What PyTorch's profiler sees of a call: the host's time, the device's, and the kernels that take longest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

_CALLS, _LONGEST, _NAME_LENGTH = 3, 10, 90
_LABEL = "traced call"


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel, or a copy: where it began and ended, in microseconds."""

    name: str
    start: float
    end: float


def traced(call: Callable[[], object]) -> dict[str, Any]:
    """Milliseconds a call of host and device, and the longest kernels; None and none where no device was traced."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as seen:
        for _ in range(_CALLS):
            with record_function(_LABEL):
                call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    events = seen.events() or []
    host = [e.time_range.elapsed_us() for e in events if e.name == _LABEL and e.device_type == DeviceType.CPU]
    # The label is there on the device, too, as long as all that it encloses.
    on_device = (e for e in events if e.device_type == DeviceType.CUDA and e.name != _LABEL)
    kernels = [Kernel(e.name, e.time_range.start, e.time_range.end) for e in on_device]
    return {
        "traced_host_ms": sum(host) / 1e3 / _CALLS,
        "device_ms": busy(kernels) / 1e3 / _CALLS if kernels else None,
        "longest": longest(kernels, _CALLS),
    }


def busy(kernels: Iterable[Kernel]) -> float:
    """Microseconds in which at least one ran."""
    total, until = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        total += max(0.0, kernel.end - max(until, kernel.start))
        until = max(until, kernel.end)
    return total


def longest(kernels: Iterable[Kernel], calls: int) -> list[dict[str, Any]]:
    """Those that take most of a call, with how often each runs in it."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for kernel in kernels:
        by_name[kernel.name].append(kernel.end - kernel.start)
    ordered = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:_LONGEST]
    return [
        {"kernel": name[:_NAME_LENGTH], "ms": sum(us) / 1e3 / calls, "runs": len(us) / calls} for name, us in ordered
    ]
