"""Fits a GPU's constants to times of phases that were measured on it.

By differential evolution (Storn and Price, 1997). What was measured by itself is not fitted. Bounds keep to what data
sheets and microbenchmarks allow, so that no constant can stand in for another one's physics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import differential_evolution

from ..progress import progress
from ..result import Result, number
from .counting import Amounts
from .counts import Counts
from .gpu_time import Gpu, seconds

_MULTIPROCESSORS, _CLOCK_HZ = 132, 1.755e9  # an H100 SXM5 under load
# Bytes a second that 20 to 30 MB are read from an H100's L2 cache with (github.com/te42kyfo/gpu-benches, gpu-l2-cache,
# h100_pcie.txt). The measured phases would be met as well by half of that.
_CACHE = 6.9e12
_BOUNDS: dict[str, tuple[float, float]] = {
    "latency": (0.5e-6, 2.5e-6),
    "issued": (1.0, 4.0),
    "norm": (1.5, 12.0),
    "launch": (1e-6, 8e-6),
    # Whole directions took some 10 us less than their phases alone: two launches, less two barriers.
    "barrier": (0.5e-6, 2e-6),
}
# Sets of constants that compete, for each constant.
_SETS = 8
_CLOSE = np.log(1.25)

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observed:
    """A phase's amounts and its measured seconds."""

    amounts: Amounts
    seconds: float


def observed(measured: Result, counts: Counts) -> list[Observed]:
    """Every phase that was both measured and counted."""
    times = {
        (str(row["tail"]), str(row["way"]), name): milliseconds * 1e-3
        for row in measured.rows
        for name in row
        if (milliseconds := number(row[name])) is not None
    }
    return [Observed(amounts, times[key]) for key, amounts in counts.items() if key in times]


@dataclass(frozen=True)
class Ceilings:
    """Rates a second that were measured by themselves: bytes of a copy, operations of a large product."""

    memory: float
    operations: float


def ceilings(measured: Result) -> Ceilings:
    """Of a result of ``benchmarks phases``."""
    of = measured.details["ceilings"]
    return Ceilings(float(of["bytes_per_s"]), float(of["operations_per_s"]))


def _gpu_of(constants: Vector, ceilings: Ceilings) -> Gpu:
    """From the constants' logarithms, in the order of the bounds."""
    of = {name: float(f"{value:.4g}") for name, value in zip(_BOUNDS, np.exp(constants), strict=True)}
    return Gpu(_MULTIPROCESSORS, _CLOCK_HZ, ceilings.memory, ceilings.operations, _CACHE, **of)


def fitted(phases: Sequence[Observed], ceilings: Ceilings, generations: int = 200) -> Gpu:
    """The constants whose times are closest to the measured ones."""
    with progress("fitting", generations) as step:

        def count(*_: object, **__: object) -> None:  # what returns true ends the search
            step()

        found = differential_evolution(
            lambda constants: _loss(_gpu_of(constants, ceilings), phases),
            np.log(list(_BOUNDS.values())),
            maxiter=generations,
            popsize=_SETS,
            rng=1,
            callback=count,
            polish=False,
            tol=0.0,
        )
    return _gpu_of(found.x, ceilings)


def held_out(measured: Result, counts: Counts, parts: int = 3) -> tuple[int, int]:
    """Phases that are met within a quarter by constants that were fitted without their tails, and of how many."""
    tails = sorted({tail for tail, _, _ in counts})
    close = total = 0
    for part in range(parts):
        left_out = set(tails[part::parts])
        known = observed(measured, {key: of for key, of in counts.items() if key[0] not in left_out})
        gpu = fitted(known, ceilings(measured))
        tested = observed(measured, {key: of for key, of in counts.items() if key[0] in left_out})
        close += sum(abs(seconds(of.amounts, gpu) / of.seconds - 1) <= 0.25 for of in tested)
        total += len(tested)
    return close, total


def _loss(gpu: Gpu, phases: Sequence[Observed]) -> float:
    """Mean error, and the share of phases that are not close; both smooth, and nothing counts more than twofold."""
    errors = np.abs(np.log([seconds(one.amounts, gpu) / one.seconds for one in phases]))
    return float(np.minimum(errors, 0.7).mean() + 0.7 * (1 / (1 + np.exp(-40 * (errors - _CLOSE)))).mean())
