"""The memory that a call takes at its height, by PyTorch's allocator."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes of a GPU that one call had allocated at a time, beyond what was held before."""
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held


def most_allocated(call: Callable[[], object], device: str) -> int:
    """The same on any device; on a CPU from the profiler's record of all allocations.

    What libraries allocate by themselves is not part of it.
    """
    if device == "cuda":
        return peak_bytes(call)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    in_order = sorted(events, key=lambda event: event.start_ns())
    return max(accumulate((int(event.nbytes()) for event in in_order), initial=0))
