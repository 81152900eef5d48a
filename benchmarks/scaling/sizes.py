"""Times forward and backward of a tail, fused and not, at points where one size varies and the others stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from fused_resnet.cost import choice
from fused_resnet.operation.branches import Projection

from ..clocks import clock_of
from ..result import Row
from ..tail.measure import Conditions, cache_bytes, measure_tail
from ..tail_shapes import TailShape
from ..tails import MODES, Tail

# What the sizes are called in the result, by the attribute of the shape; rows grow with the image.
SWEEPS = {"rows M": "size", "inputs K": "inner", "outputs C": "channels", "batch": "batch"}
# The sides' names in the result, with those of the benchmark `tail`.
SIDES = {"fused": "fused", "eager": "eager", "torch.compile": "compile"}
_BUSY_MS = 6.0  # longer than Python takes to queue a tail's step


class Point(NamedTuple):
    """A tail whose size `sweep` is `value`."""

    sweep: str
    value: int
    shape: TailShape


@dataclass(frozen=True)
class Plan:
    """Where all sweeps meet, and the values of each, by the attribute of the shape."""

    base: TailShape
    values: Mapping[str, Sequence[int]]
    runs: int

    def points(self, shortcut: str) -> Iterator[Point]:
        """The points of every sweep. A projection in the shortcut has as many inputs as the main branch's."""
        for sweep, attribute in SWEEPS.items():
            for value in self.values[attribute]:
                changes: dict[str, Any] = {attribute: value}
                shape = replace(self.base, **changes)
                before = shape.inner if shortcut == "projection" else None
                yield Point(sweep, shape.rows if sweep == "rows M" else value, replace(shape, before=before))

    def conditions(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """How each point is timed."""
        clock, cache = clock_of(device, _BUSY_MS), 2**16 if self is QUICK else cache_bytes(device)
        return Conditions(device, dtype, lambda mode: clock, cache, self.runs, max(1, self.runs // 5))


CPU = Plan(
    TailShape("tail", "sweep", 1, 28, 64, 256, batch=8),
    {
        "size": (4, 7, 14, 28, 56),
        "inner": (16, 32, 64, 128, 256, 512),
        "channels": (64, 128, 256, 512, 1024),
        "batch": (1, 2, 4, 8, 16, 32),
    },
    runs=9,
)
GPU = Plan(
    TailShape("tail", "sweep", 1, 28, 128, 512, batch=64),
    {
        "size": (4, 7, 14, 28, 56, 112),
        "inner": (32, 64, 128, 256, 512, 1024),
        "channels": (64, 128, 256, 512, 1024, 2048),
        "batch": (1, 4, 16, 64, 128, 256),
    },
    runs=25,
)
_SMALL = {"size": (2, 4), "inner": (16, 32), "channels": (16, 32), "batch": (2, 4)}
QUICK = Plan(TailShape("tail", "sweep", 1, 4, 16, 32, batch=2), _SMALL, runs=2)


def plan_of(device: torch.device, quick: bool) -> Plan:
    return QUICK if quick else GPU if device.type == "cuda" else CPU


def timed(point: Point, conditions: Conditions, compiled: bool) -> tuple[Row | None, str]:
    """The point's row, None where fused tails compute something else; and what went wrong, if anything did."""
    ways = [way for way in SIDES.values() if compiled or way != "compile"]
    found = measure_tail(point.shape, MODES["training+backward"], ways, conditions)
    problems = [f"{way} is {error:.1e} from eager" for way, error in found.wrong.items()]
    problem = ", ".join([*problems, *(f"{way} failed: {why}" for way, why in found.failed.items())])
    if "fused" not in found.measured:
        return None, f"left out, {problem}"
    times = {side: found.measured[way].times.device for side, way in SIDES.items() if way in found.measured}
    shape = point.shape
    return {
        "sweep": point.sweep,
        "value": point.value,
        "M": shape.rows,
        "K": shape.inner,
        "C": shape.channels,
        "strategy": strategy_of(shape, conditions),
        **{side: seconds.scaled(1e3) for side, seconds in times.items()},
        "fused / eager": times["fused"].median / times["eager"].median,
    }, problem


def strategy_of(shape: TailShape, conditions: Conditions) -> str:
    """What is chosen for the tail's projections; the main branch's first, where they differ."""
    tail = Tail(shape, conditions.dtype).to(conditions.device)
    branches = tail.branches(*tail.inputs(conditions.device, conditions.dtype))
    by_library = choice.by_library(branches, backward=True)
    if by_library is None:
        return "PyTorch"
    projections = [own for own, branch in zip(by_library, branches, strict=True) if isinstance(branch, Projection)]
    return " + ".join(dict.fromkeys("library" if own else "moments" for own in projections))
