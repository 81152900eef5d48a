"""Times calls: on a GPU each with an empty L2 cache and without the time in which Python queues it, or in a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import torch

from .result import Spread

Call = Callable[[], object]
K = TypeVar("K")


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
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        # Written, then read: lines that had still to be written back would be so at the cost of the call.
        self._flushed.zero_().sum()
        torch.cuda._sleep(self._busy_cycles)
        start.record()
        begun = time.perf_counter()
        call()
        host = time.perf_counter() - begun
        end.record()
        torch.cuda.synchronize()
        return Sample(start.elapsed_time(end) / 1e3, host)


class WallClock:
    """From the call to the end of what it has queued on the device ("cpu" or "cuda")."""

    def __init__(self, device: str = "cpu") -> None:
        self._finish: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None

    def __call__(self, call: Call) -> Sample:
        self._finish()
        begun = time.perf_counter()
        call()
        self._finish()
        seconds = time.perf_counter() - begun
        return Sample(seconds, seconds)


def clock_of(device: torch.device, busy_ms: float) -> Clock:
    """The device's own time; `busy_ms` as `GpuClock` has it."""
    return GpuClock(busy_ms) if device.type == "cuda" else WallClock()


@dataclass(frozen=True)
class Times:
    """Seconds of each run, as a `Sample` has them; medians and quartiles."""

    samples: Sequence[Sample]

    @property
    def seconds(self) -> list[float]:
        """The device's seconds, run by run."""
        return [sample.device for sample in self.samples]

    @property
    def device(self) -> Spread:
        return Spread.of(self.seconds)

    @property
    def host(self) -> Spread:
        return Spread.of([sample.host for sample in self.samples])


def measure(
    calls: Mapping[K, Call], clock: Clock, *, runs: int, warm_up: int, advance: Callable[[], object] = lambda: None
) -> dict[K, Times]:
    """Times each call `runs` (at least 2) times, after `warm_up` rounds that are not timed.

    What disturbs a machine (other processes, clocks, heat) drifts over seconds. A round takes all calls in turn, every
    other round from the last to the first, so that a drift meets all alike. `advance` is called after each round.
    """
    samples: dict[K, list[Sample]] = {name: [] for name in calls}
    for turn in range(-warm_up, runs):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            sample = clock(calls[name])
            if turn >= 0:
                samples[name].append(sample)
        advance()
    return {name: Times(taken) for name, taken in samples.items()}


def consecutive(call: Call, count: int, device: str) -> list[float]:
    """Seconds of each of so many calls in a row, none of which waits for the end of the one before, as in training."""
    if device != "cuda":
        clock = WallClock()
        return [clock(call).device for _ in range(count)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1e3 for begin, end in pairwise(events)]
