"""Fits a GPU's constants to times of phases that were measured on it.

By differential evolution (Storn and Price, 1997). Bounds keep to what data sheets and microbenchmarks allow, so that no
constant can stand in for another one's physics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import differential_evolution

from ..progress import progress
from ..result import Result, number
from .counting import INSTRUCTIONS, Amounts
from .counts import Counts
from .gpu_time import Gpu, seconds

_MULTIPROCESSORS, _CLOCK_HZ = 132, 1.755e9  # an H100 SXM5 under load
# A quarter of a multiprocessor issues an instruction a cycle: 16 bytes of half precision are 8 conversions, as many
# multiply-adds and half as many packings, so some 8 cycles.
_BOUNDS: dict[str, tuple[float, float]] = {
    "memory": (2.35e12, 3.0e12),
    "cache": (3e12, 1e13),
    "wavefronts": (0.6, 1.0),
    "operations": (3e14, 7.8e14),
    "memory_latency": (0.7e-6, 2.5e-6),
    "cache_latency": (0.2e-6, 0.9e-6),
    "alone": (0.4, 3.0),
    "norm": (2.2, 12.0),
    "launch": (1e-6, 8e-6),
    "barrier": (0.5e-6, 5e-6),
    **dict.fromkeys(INSTRUCTIONS, (0.1, 50.0)),
    "load": (1.0, 10.0),
    "store": (1.0, 14.0),
    "scattered": (0.1, 1.0),
}
# Sets of constants that compete, for each constant.
_SETS = 5
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


def gpu_of(constants: Vector) -> Gpu:
    """From the constants' logarithms, in the order of the bounds."""
    of = {name: float(f"{value:.4g}") for name, value in zip(_BOUNDS, np.exp(constants), strict=True)}
    cycles = {name: of.pop(name) for name in (*INSTRUCTIONS, "scattered")}
    return Gpu(_MULTIPROCESSORS, _CLOCK_HZ, cycles=cycles, **of)


def fitted(phases: Sequence[Observed], generations: int = 700) -> Gpu:
    """The constants whose times are closest to the measured ones."""
    with progress("fitting", generations) as step:

        def count(*_: object, **__: object) -> None:  # what returns true ends the search
            step()

        found = differential_evolution(
            lambda constants: _loss(constants, phases),
            np.log(list(_BOUNDS.values())),
            maxiter=generations,
            popsize=_SETS,
            rng=1,
            callback=count,
            polish=False,
            tol=0.0,
        )
    return gpu_of(found.x)


def held_out(measured: Result, counts: Counts, parts: int = 3) -> tuple[int, int]:
    """Phases that are met within a quarter by constants that were fitted without their tails, and of how many."""
    tails = sorted({tail for tail, _, _ in counts})
    close = total = 0
    for part in range(parts):
        left_out = set(tails[part::parts])
        gpu = fitted(observed(measured, {key: of for key, of in counts.items() if key[0] not in left_out}))
        tested = observed(measured, {key: of for key, of in counts.items() if key[0] in left_out})
        close += sum(abs(seconds(of.amounts, gpu) / of.seconds - 1) <= 0.25 for of in tested)
        total += len(tested)
    return close, total


def _loss(constants: Vector, phases: Sequence[Observed]) -> float:
    """Mean error, and the share of phases that are not close; both smooth, and nothing counts more than twofold."""
    gpu = gpu_of(constants)
    errors = np.abs(np.log([seconds(one.amounts, gpu) / one.seconds for one in phases]))
    return float(np.minimum(errors, 0.7).mean() + 0.7 * (1 / (1 + np.exp(-40 * (errors - _CLOSE)))).mean())
