"""Times calls: on a GPU each with an empty L2 cache and without the time in which Python queues it, or in a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch

from .timing import Spread

Call = Callable[[], object]


@dataclass(frozen=True)
class Sample:
    """Seconds that the device computed, and seconds that Python took to queue it."""

    device: float
    host: float


class Clock(Protocol):
    def __call__(self, call: Call) -> Sample: ...


class GpuClock:
    """CUDA events around a call that is queued while the GPU is kept busy, so that it never waits for Python."""

    # At 2 GHz.
    _CYCLES_PER_MS = 2_000_000

    def __init__(self, busy_ms: float) -> None:
        """`busy_ms`: longer than Python takes to queue any call."""
        self._busy_cycles = int(busy_ms * self._CYCLES_PER_MS)
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self._flushed = torch.empty(2 * l2 // 4, dtype=torch.float32, device="cuda")

    def __call__(self, call: Call) -> Sample:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        # Written, then read: lines that had still to be written back would be so at the cost of the call.
        self._flushed.zero_().sum()
        torch.cuda._sleep(self._busy_cycles)  # type: ignore[no-untyped-call]
        start.record()
        begun = time.perf_counter()
        call()
        host = time.perf_counter() - begun
        end.record()
        torch.cuda.synchronize()
        return Sample(start.elapsed_time(end) / 1e3, host)


class CpuClock:
    """Wall time: on a CPU, what was called has been computed when the call returns."""

    def __call__(self, call: Call) -> Sample:
        begun = time.perf_counter()
        call()
        seconds = time.perf_counter() - begun
        return Sample(seconds, seconds)


@dataclass(frozen=True)
class Times:
    """Medians and quartiles in seconds."""

    device: Spread
    host: Spread


def measure(calls: Mapping[str, Call], clock: Clock, *, runs: int, warm_up: int) -> dict[str, Times]:
    """Each call `runs` (at least 2) times; a round takes all in turn, so that a drift of the clocks meets all alike."""
    samples: dict[str, list[Sample]] = {name: [] for name in calls}
    for turn in range(-warm_up, runs):
        for name, call in calls.items():
            sample = clock(call)
            if turn >= 0:
                samples[name].append(sample)
    return {
        name: Times(Spread.of([s.device for s in taken]), Spread.of([s.host for s in taken]))
        for name, taken in samples.items()
    }


def consecutive(call: Call, count: int, device: str) -> list[float]:
    """Seconds of each of so many calls in a row, none of which waits for the end of the one before, as in training."""
    if device != "cuda":
        clock = CpuClock()
        return [clock(call).device for _ in range(count)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1e3 for begin, end in pairwise(events)]
