"""The memory that a call takes at its height, by PyTorch's allocator, on any device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile

from ..peak import peak_bytes


def most_allocated(call: Callable[[], object], device: str) -> int:
    """Most bytes that one call had allocated at a time, beyond what was held before.

    On a CPU from the profiler's record of all allocations. What libraries allocate by themselves is not part of it.
    """
    on_gpu = peak_bytes(call, device)
    return _most_on_cpu(call) if on_gpu is None else on_gpu


def _most_on_cpu(call: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    in_order = sorted(events, key=lambda event: event.start_ns())
    return max(accumulate((int(event.nbytes()) for event in in_order), initial=0))
