"""Times forward and backward of a tail, fused and not, at points where one size varies and the others stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_resnet.cost import choice
from fused_resnet.operation.branches import Projection

from ..accuracy import relative_error
from ..clocks import Clock, measure
from ..errors import UserError
from ..gradients import incoming_gradient
from ..result import Row
from ..tail.measure import TOLERANCE
from ..tails import Tail, TailShape

# What the sizes are called in the result, by the attribute of the shape; rows grow with the image.
SWEEPS = {"rows M": "size", "inputs K": "inner", "outputs C": "channels", "batch": "batch"}


class Point(NamedTuple):
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

    def points(self, shortcut: str) -> Iterator[Point]:
        """The points of every sweep. A projection in the shortcut has as many inputs as the main branch's."""
        for sweep, attribute in SWEEPS.items():
            for value in self.values[attribute]:
                changes: dict[str, Any] = {attribute: value}
                shape = replace(self.base, **changes)
                before = shape.inner if shortcut == "projection" else None
                shown = shape.rows if sweep == "rows M" else value
                yield Point(sweep, shown, replace(shape, before=before))


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


Inputs = tuple[Tensor, Tensor]
Forward = Callable[[Tensor, Tensor], Tensor]

EAGER, FUSED, COMPILED = "eager", "fused", "torch.compile"


class DiffersError(Exception):
    """A side does not compute what eager operations do; it is not timed."""


def row_of(point: Point, plan: Plan, device: torch.device, dtype: torch.dtype, clock: Clock, compiled: bool) -> Row:
    """The point's row.

    Raises:
        DiffersError: a side's values are not those of eager operations.
        UserError: torch.compile, if asked for, does not work here.
    """
    torch.manual_seed(0)
    shape = point.shape
    tail = Tail(shape, dtype).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    inputs = tail.inputs(device, dtype)
    with torch.no_grad():
        dy = incoming_gradient(tail.sum(*inputs))
    for x in inputs:
        x.requires_grad_(True)
    ways: dict[str, Forward] = {FUSED: tail.fused, EAGER: tail}
    if compiled:
        ways[COMPILED] = _compiled(tail, inputs)
    sides = {name: partial(_both_directions, way, tail, inputs, dy) for name, way in ways.items()}
    _check({name: side() for name, side in sides.items()}, dtype)
    times = measure(sides, clock, runs=plan.runs, warm_up=plan.warm_up)
    return {
        "sweep": point.sweep,
        "value": point.value,
        "M": shape.rows,
        "K": shape.inner,
        "C": shape.channels,
        "strategy": strategy_of(tail, inputs),
        **{name: taken.device.scaled(1e3) for name, taken in times.items()},
        "fused / eager": times[FUSED].device.median / times[EAGER].device.median,
    }


def _compiled(tail: Tail, inputs: Inputs) -> Forward:
    torch._dynamo.reset()
    compiled: Forward = torch.compile(tail, dynamic=False)
    try:
        compiled(*inputs)
    except Exception as error:
        # More often it is the machine's compiler that fails than the tail.
        raise UserError(f"--compile: torch.compile fails with {type(error).__name__}: {str(error)[:200]}") from error
    return compiled


def strategy_of(tail: Tail, inputs: Inputs) -> str:
    """What is chosen for the tail's projections; the main branch's first, where they differ."""
    branches = tail.branches(*inputs)
    by_library = choice.by_library(branches, backward=True)
    if by_library is None:
        return "PyTorch"
    projections = [own for own, branch in zip(by_library, branches, strict=True) if isinstance(branch, Projection)]
    each = ["library" if own else "moments" for own in projections]
    return " + ".join(dict.fromkeys(each))


def _both_directions(way: Forward, tail: Tail, inputs: Inputs, dy: Tensor) -> dict[str, Tensor]:
    y = way(*inputs)
    return {"output": y, **tail.gradients(y, inputs, dy)}


def _check(values: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype) -> None:
    for side, found in values.items():
        for name, value in found.items():
            error = relative_error(value.detach(), values[EAGER][name].detach().double())
            if not error <= TOLERANCE[dtype]:
                allowed = f"{TOLERANCE[dtype]:.0e}"
                raise DiffersError(f"{name}, {side}, is {error:.1e} from eager, expected at most {allowed}")
