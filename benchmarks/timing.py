"""Times two ways to the same result in interleaved pairs.

What disturbs a machine (other processes, clocks, heat) drifts over seconds. The two sides of a pair run one right
after the other, in alternating order, so that a pair's ratio sees hardly any of it; the ratios' median and quartiles
are what to read.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from .sides import Sides


@dataclass(frozen=True)
class Spread:
    """Median and quartiles: half of the values lie between ``lower`` and ``upper``."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least two values."""
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass(frozen=True)
class Timing:
    """Seconds of every pair's two sides, and the spread of the pairs' ratios: fused time / unfused time."""

    seconds: Sides[list[float]]
    ratio: Spread

    @classmethod
    def of(cls, seconds: Sides[list[float]]) -> Timing:
        """From as many times on either side, one pair after the other."""
        pairs = zip(seconds.unfused, seconds.fused, strict=True)
        return cls(seconds, Spread.of([fused / unfused for unfused, fused in pairs]))

    @property
    def spread(self) -> Sides[Spread]:
        """Median and quartiles of either side's seconds."""
        return self.seconds.map(Spread.of)


def interleaved(
    calls: Mapping[str, Sides[Callable[[], object]]],
    *,
    pairs: int,
    warm_up: int,
    device: torch.device,
    advance: Callable[[], object],
) -> dict[str, Timing]:
    """Times each named pair of calls ``pairs`` (at least 2) times, after ``warm_up`` untimed rounds.

    A round takes every name in turn, so that a drift of the machine meets all of them alike. ``advance`` is called
    after each of the ``warm_up + pairs`` rounds' pairs, outside the timed parts.
    """
    seconds: dict[str, Sides[list[float]]] = {name: Sides([], []) for name in calls}
    for turn in range(-warm_up, pairs):
        for name, pair in calls.items():
            sides = [(pair.unfused, seconds[name].unfused), (pair.fused, seconds[name].fused)]
            for call, into in sides if turn % 2 == 0 else reversed(sides):
                elapsed = _seconds(call, device)
                if turn >= 0:
                    into.append(elapsed)
            advance()
    return {name: Timing.of(times) for name, times in seconds.items()}


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, to the end of the work that it queued on the device."""
    _finish_queued_work(device)
    start = time.perf_counter()
    call()
    _finish_queued_work(device)
    return time.perf_counter() - start


def _finish_queued_work(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
