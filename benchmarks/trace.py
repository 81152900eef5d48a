"""What PyTorch sees of a call: the kernels that it runs on a GPU, and the memory that it takes at its height."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .clocks import Call

_LONGEST, _NAME_LENGTH = 10, 90
# Work that the driver does without a kernel, or in the place of a small one.
_NO_KERNELS = ("Memcpy", "Memset")


class Kernel(NamedTuple):
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
    return [{"kernel": n[:_NAME_LENGTH], "ms": sum(us) / 1e3 / calls, "runs": len(us) / calls} for n, us in ordered]


def peak_bytes(call: Call) -> int:
    """Most bytes of a GPU that one call had allocated at a time, beyond what was held before."""
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held


def most_allocated(call: Call, device: str) -> int:
    """The same on any device; on a CPU from the profiler's record, which has nothing of what libraries allocate."""
    if device == "cuda":
        return peak_bytes(call)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    in_order = sorted(events, key=lambda event: event.start_ns())
    return max(accumulate((int(event.nbytes()) for event in in_order), initial=0))
