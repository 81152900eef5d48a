"""One tail in one mode: every way checked against eager operations, then all timed in turn."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..accuracy import relative_error
from ..clocks import Clock, Times, measure
from ..gradients import incoming_gradient
from ..modes import Mode
from ..peak import peak_bytes
from ..tail_shapes import TailShape
from ..tails import Tail
from ..trace import launched_kernels
from .counts import Counted, counted
from .rotation import Case, Rotation, copies_for
from .ways import EAGER, WAYS, Forward, ImpossibleError

# Limits for the relative error of a way against eager operations in the same dtype; float32 on a GPU may be tf32.
TOLERANCE = {torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 2e-2}
# What is computed, by name.
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Measured:
    """What was measured of one way.

    Attributes:
        error: the largest relative error of the output and the gradients, against the eager ones.
        counted: None where nobody can say.
        launches: kernels on a GPU; elsewhere what can be counted (`counts.Counted`).
        peak_bytes: of memory during a call; None on a CPU.
    """

    times: Times
    error: float
    counted: Counted | None
    launches: int | None
    peak_bytes: int | None


@dataclass
class Outcome:
    """One tail in one mode: what was measured, by way, and what was not and why."""

    measured: dict[str, Measured] = field(default_factory=dict)
    wrong: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """What every tail is measured under; `cache_bytes` is what the inputs of a rotation must not fit."""

    device: torch.device
    dtype: torch.dtype
    clock_of: Callable[[Mode], Clock]
    cache_bytes: int
    runs: int
    warm_up: int


def measure_tail(shape: TailShape, mode: Mode, ways: Sequence[str], conditions: Conditions) -> Outcome:
    """Every way that there is, eager operations among them. What is wrong or fails is told, and not timed."""
    outcome = Outcome()
    calls = _prepared(shape, mode, ways, conditions, outcome)
    errors = _errors(calls, conditions.dtype, outcome)
    if not errors:
        return outcome
    right = {name: calls[name] for name in errors}
    times = measure(right, conditions.clock_of(mode), runs=conditions.runs, warm_up=conditions.warm_up)
    on_gpu = conditions.device.type == "cuda"
    for name, call in right.items():
        count = counted(name, shape, mode, conditions.dtype)
        launches = launched_kernels(call) if on_gpu else None if count is None else count.launches
        peak = peak_bytes(call) if on_gpu else None
        outcome.measured[name] = Measured(times[name], errors[name], count, launches, peak)
    return outcome


def _prepared(
    shape: TailShape, mode: Mode, ways: Sequence[str], conditions: Conditions, outcome: Outcome
) -> dict[str, Callable[[], Values]]:
    """In the order of the ways, eager operations among them; each call takes the next inputs."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    formats = {False: torch.channels_last, True: torch.contiguous_format}
    original = Tail(shape, conditions.dtype).to(conditions.device).train(mode.training)
    case = _case(original, mode, conditions)
    copies = copies_for(case.nbytes, conditions.cache_bytes)
    rotations = {c: Rotation(case, formats[c], copies) for c in {WAYS[name].contiguous for name in ways} | {False}}
    calls: dict[str, Callable[[], Values]] = {}
    for name in ways:
        contiguous = WAYS[name].contiguous
        tail = copy.deepcopy(original).to(memory_format=formats[contiguous])  # type: ignore[call-overload]
        try:
            forward = WAYS[name].prepare(tail, mode)
        except ImpossibleError as reason:
            outcome.impossible[name] = str(reason)
        except Exception as error:
            outcome.failed[name] = said(error)
        else:
            calls[name] = partial(_call, forward, tail, rotations[contiguous], mode)
    return calls


def _call(forward: Forward, tail: Tail, rotation: Rotation, mode: Mode) -> Values:
    case = rotation()
    with torch.set_grad_enabled(mode.grad_enabled):
        y = forward(*case.inputs)
        return {"output": y, **({} if case.dy is None else tail.gradients(y, case.inputs, case.dy))}


def _case(tail: Tail, mode: Mode, conditions: Conditions) -> Case:
    x, before = tail.inputs(conditions.device, conditions.dtype)
    with torch.no_grad():
        dy = incoming_gradient(tail.sum(x, before)) if mode.backward else None
    return Case(x.requires_grad_(mode.grad_enabled), before.requires_grad_(mode.grad_enabled), dy)


def _errors(calls: Mapping[str, Callable[[], Values]], dtype: torch.dtype, outcome: Outcome) -> dict[str, float]:
    """Errors of those that are right."""
    exact = {name: value.detach().double() for name, value in calls[EAGER]().items()}
    right = {}
    for name, call in calls.items():
        try:
            error = largest_error(call(), exact)
        except Exception as raised:
            outcome.failed[name] = said(raised)
            continue
        if error <= TOLERANCE[dtype]:
            right[name] = error
        else:
            outcome.wrong[name] = error
    return right


def largest_error(found: Values, exact: Values) -> float:
    """Of the values that were found, against those of the same names in float64; NaN before all."""
    errors = (relative_error(value.detach(), exact[name].double()) for name, value in found.items())
    return max(errors, key=lambda error: (math.isnan(error), error))


def said(error: Exception) -> str:
    """For a note."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
