"""Times every tail, fused and not; the process of the stages ``time`` (forward) and ``backward`` (with backward).

Two passes: all tails against eager operations, then, for as long as there is time, against torch.compile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import fused_resnet
from fused_resnet import backend
from fused_resnet.branches import Projection
from fused_resnet.modules import branch_of
from fused_resnet.strategy import Strategy, StrategyChoice, use_strategy

from ..accuracy import relative_error
from ..clocks import Clock, CpuClock, GpuClock, Times, measure
from ..gradients import incoming_gradient
from ..modes import Mode
from ..peak import peak_bytes
from ..tails import Tail, TailShape, by_importance, counted_bytes
from .record import report

DTYPE = torch.bfloat16
# Of what a side computes from what the eager operations do.
TOLERANCE = 2e-2
FORWARD = (Mode("training", training=True, backward=False), Mode("eval", training=False, backward=False))
BACKWARD = (Mode("forward + backward", training=True, backward=True),)
# What must be left for a tail to be compiled and timed.
_COMPILE_S = 45.0
_EAGER, _COMPILED = "eager", "torch.compile"

Inputs = tuple[Tensor, Tensor]
Forward = Callable[[Tensor, Tensor], Tensor]
# What is computed, by name.
Side = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Plan:
    """How much is measured, on what."""

    device: str
    modes: Sequence[Mode]
    shapes: Sequence[TailShape]
    compiled_shapes: Sequence[TailShape]
    runs: int
    warm_up: int


def plan(modes: Sequence[Mode], rehearse: bool) -> Plan:
    shapes = by_importance()
    if not rehearse:
        return Plan("cuda", modes, shapes, shapes, runs=25, warm_up=5)
    small = [shape.shrunk(2, 7, 16) for shape in shapes]
    return Plan("cpu", modes, small, small[:1], runs=2, warm_up=1)


def run(chosen: Plan, clock: Clock, deadline: float) -> None:
    """Reports an item for each tail and mode, and one on what there was no time for."""
    left_out = []
    for compiled, shapes in ((False, chosen.shapes), (True, chosen.compiled_shapes)):
        for shape in shapes:
            for mode in chosen.modes:
                where = {"tail": shape.name, "mode": mode.name, "compiled": compiled}
                if time.monotonic() > deadline - (_COMPILE_S if compiled else 0):
                    left_out.append(where)
                    continue
                try:
                    time_tail(shape, mode, compiled, chosen, clock, where)
                except Exception as error:
                    # Of the compiler it is no failure of this project: the tail has been timed without.
                    key = "not_compiled" if compiled else "problem"
                    report(**where, **{key: f"{type(error).__name__}: {str(error)[:500]}"})
    report(left_out=left_out)


def time_tail(
    shape: TailShape, mode: Mode, compiled: bool, chosen: Plan, clock: Clock, where: Mapping[str, object]
) -> None:
    torch.manual_seed(0)
    tail = Tail(shape, DTYPE).to(chosen.device, memory_format=torch.channels_last).train(mode.training)  # type: ignore[call-overload]
    inputs = tail.inputs(chosen.device, DTYPE)
    with torch.no_grad():
        dy = incoming_gradient(tail.sum(*inputs)) if mode.backward else None
    with torch.set_grad_enabled(mode.grad_enabled):
        for x in inputs:
            x.requires_grad_(mode.grad_enabled)
        sides = {name: partial(_compute, way, tail, inputs, dy) for name, way in ways_of(tail, compiled).items()}
        errors = {name: _error(side, sides[_EAGER]) for name, side in sides.items()}
        wrong = {name: str(error) for name, error in errors.items() if not error <= TOLERANCE}
        if wrong:
            report(**where, problem=f"differs from eager, so it was not timed: {wrong}")
        right = {name: side for name, side in sides.items() if name not in wrong}
        times = measure(right, clock, runs=chosen.runs, warm_up=chosen.warm_up)
        peaks = {name: peak_bytes(side, chosen.device) for name, side in right.items()}
        counted = {name: bytes_of(tail, inputs, name, mode.backward) for name in right}
    rows = {name: _row(t, errors[name], counted[name], peaks[name]) for name, t in times.items()}
    report(**where, shape=_shape(shape), sides=rows)


def ways_of(tail: Tail, compiled: bool) -> dict[str, Forward]:
    """The ways to the tail's output, with the strategies where they make a difference."""
    ways: dict[str, Forward] = {"fused": tail.fused}
    if compiled:
        torch._dynamo.reset()
        # The sizes of a network do not change.
        ways[_COMPILED] = torch.compile(tail, dynamic=False)
    else:
        if tail.training and tail.shape.projections:
            for strategy in ("moments", "materialise"):
                ways[strategy] = partial(_forced, strategy, tail)
        if tail.conv is not None:
            ways["conv3 apart"] = tail.fused_behind_conv
    return {**ways, _EAGER: tail}


def _forced(strategy: StrategyChoice, tail: Tail, x: Tensor, before: Tensor) -> Tensor:
    with use_strategy(strategy):
        return tail.fused(x, before)


def _compute(forward: Forward, tail: Tail, inputs: Inputs, dy: Tensor | None) -> dict[str, Tensor]:
    """The output and, where its gradient is given, those of inputs and parameters."""
    y = forward(*inputs)
    return {"output": y, **({} if dy is None else tail.gradients(y, inputs, dy))}


def _error(side: Side, eager: Side) -> float:
    """The largest of all that is computed."""
    values, exact = side(), eager()
    errors = [relative_error(value.detach(), exact[name].detach().double()) for name, value in values.items()]
    return max(errors, key=lambda error: (error != error, error))  # NaN before all


def bytes_of(tail: Tail, inputs: Inputs, side: str, backward: bool = False) -> int | None:
    """What the kernels must move, by the design, forward or in both directions.

    None of a side whose work is not all theirs.
    """
    strategies: dict[str, StrategyChoice] = {"fused": "auto", "moments": "moments", "materialise": "materialise"}
    if side not in strategies:
        return None
    with use_strategy(strategies[side]):
        chosen = strategies_of(tail, inputs)
    return counted_bytes(tail.shape, tail.training, chosen, DTYPE.itemsize, backward)


def strategies_of(tail: Tail, inputs: Inputs) -> list[Strategy]:
    """What is chosen for each projection."""
    convs = ((tail.conv, tail.norm), (tail.shortcut_conv, tail.shortcut_norm))
    computation = backend.computation(inputs[0].device)
    chosen: list[Strategy] = []
    for x, (conv, norm) in zip(inputs, convs, strict=True):
        if conv is not None:
            branch = branch_of(x, conv, norm)
            assert isinstance(branch, Projection)
            chosen.append(computation.strategy(branch, torch.is_grad_enabled()))
    return chosen


def _shape(shape: TailShape) -> dict[str, object]:
    return {
        "N": shape.batch,
        "H=W": shape.size,
        "K": shape.inner,
        "C": shape.channels,
        "K of shortcut": shape.before,
        "stride": shape.stride,
        "blocks": shape.blocks,
    }


def _row(times: Times, error: float, counted: int | None, peak: int | None) -> dict[str, float | int | None]:
    device = times.device
    return {
        "us": round(device.median * 1e6, 2),
        "us_lower": round(device.lower * 1e6, 2),
        "us_upper": round(device.upper * 1e6, 2),
        "host_us": round(times.host.median * 1e6, 1),
        "bytes": counted,
        "gb_s": None if counted is None else round(counted / device.median / 1e9, 1),
        "peak_bytes": peak,
        "error": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backward", action="store_true", help="each forward with its backward")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    # As whoever trains a network of fixed sizes has it.
    torch.backends.cudnn.benchmark = True
    if arguments.rehearse:
        torch.set_num_threads(1)  # tensors are small
    busy_ms = 6.0 if arguments.backward else 2.0
    clock: Clock = CpuClock() if arguments.rehearse else GpuClock(busy_ms)
    modes = BACKWARD if arguments.backward else FORWARD
    with fused_resnet.use_backend("emulated" if arguments.rehearse else "cuda"):
        run(plan(modes, arguments.rehearse), clock, deadline)


if __name__ == "__main__":
    main()
