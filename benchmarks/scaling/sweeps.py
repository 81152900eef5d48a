"""The points at which a tail is timed: one size varies, the others stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..tails import TailShape

# What the sizes are called in the result, by the attribute of the shape; rows grow with the image.
SWEEPS = {"rows M": "size", "inputs K": "inner", "outputs C": "channels", "batch": "batch"}


@dataclass(frozen=True)
class Point:
    """A tail whose size `sweep` is `value`."""

    sweep: str
    value: int
    shape: TailShape


@dataclass(frozen=True)
class Plan:
    """Where all sweeps meet, and the values of each, by the attribute of the shape."""

    base: TailShape
    values: dict[str, Sequence[int]]
    runs: int
    warm_up: int

    def points(self, shortcut: str) -> list[Point]:
        """Of every sweep; the input of a projection in the shortcut has as many channels as the main branch's."""
        return [
            _point(sweep, _with(self.base, attribute, value), shortcut)
            for sweep, attribute in SWEEPS.items()
            for value in self.values[attribute]
        ]


def _with(shape: TailShape, attribute: str, value: int) -> TailShape:
    changes: dict[str, Any] = {attribute: value}
    return replace(shape, **changes)


def _point(sweep: str, shape: TailShape, shortcut: str) -> Point:
    value = shape.rows if sweep == "rows M" else getattr(shape, SWEEPS[sweep])
    return Point(sweep, value, replace(shape, before=shape.inner if shortcut == "projection" else None))


CPU = Plan(
    TailShape("tail", "sweep", 1, 28, 64, 256, batch=8),
    {
        "size": (4, 7, 14, 28, 56),
        "inner": (16, 32, 64, 128, 256, 512),
        "channels": (64, 128, 256, 512, 1024),
        "batch": (1, 2, 4, 8, 16, 32),
    },
    runs=9,
    warm_up=2,
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
    warm_up=5,
)
QUICK = Plan(
    TailShape("tail", "sweep", 1, 4, 16, 32, batch=2),
    {"size": (2, 4), "inner": (16, 32), "channels": (16, 32), "batch": (2, 4)},
    runs=2,
    warm_up=1,
)
