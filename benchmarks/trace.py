"""The kernels that PyTorch's profiler sees a call run on a GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .clocks import Call

_LONGEST, _NAME_LENGTH = 10, 90
# Work that the driver does without a kernel, or in the place of a small one.
_NO_KERNELS = ("Memcpy", "Memset")


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel, or a copy: where it began and ended, in microseconds."""

    name: str
    start: float
    end: float


def traced(call: Call, calls: int = 1) -> list[Kernel]:
    """The kernels of so many calls; none where the profiler sees none, as without the right to look."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    events = [event for event in seen.events() or [] if event.device_type == DeviceType.CUDA]
    return [Kernel(event.name, event.time_range.start, event.time_range.end) for event in events]


def launched_kernels(call: Call) -> int | None:
    """How many one call launches, copies and fills left out; None where none is seen."""
    return sum(not kernel.name.startswith(_NO_KERNELS) for kernel in traced(call)) or None


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
