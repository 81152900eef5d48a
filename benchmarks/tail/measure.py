"""One tail in one mode: every way checked against eager operations, then all timed in turn.

No call finds its inputs in the cache: each takes the next of several copies, which together do not fit the last-level
cache. On a GPU the clock empties the L2 cache besides, so that no call has to write back what another has left there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..accuracy import TOLERANCE, Values, largest_error
from ..clocks import Clock, Times, measure
from ..memory_formats import in_format
from ..tail_shapes import TailShape
from ..tails import Mode, Tail, incoming_gradient
from ..trace import launched_kernels, peak_bytes
from .counts import Counted, counted
from .ways import EAGER, WAYS, Forward, ImpossibleError

# Where a system does not tell.
_USUAL_CACHE_BYTES = 32 * 2**20
_MOST_BYTES = 2**30


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
        tail = in_format(copy.deepcopy(original), formats[contiguous])
        try:
            forward = WAYS[name].prepare(tail, mode)
        except ImpossibleError as reason:
            outcome.impossible[name] = str(reason)
        except Exception as error:
            outcome.failed[name] = said(error)
        else:
            calls[name] = partial(_call, forward, tail, rotations[contiguous], mode)
    return calls


class Case(NamedTuple):
    """What one call is given: both inputs and, where backward follows, the output's gradient."""

    x: Tensor
    before: Tensor
    dy: Tensor | None

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self if t is not None)

    def copied(self, memory_format: torch.memory_format) -> Case:
        """The same values in memory of their own, which require gradients as these do."""

        def copy_of(t: Tensor) -> Tensor:
            return t.detach().clone(memory_format=memory_format).requires_grad_(t.requires_grad)

        return Case(copy_of(self.x), copy_of(self.before), None if self.dy is None else copy_of(self.dy))


class Rotation:
    """Copies of one case, taken in turn: a call gives that which was taken longest ago."""

    def __init__(self, case: Case, memory_format: torch.memory_format, copies: int) -> None:
        self._next = cycle([case.copied(memory_format) for _ in range(copies)])

    def __call__(self) -> Case:
        return next(self._next)


def copies_for(case_bytes: int, cache_bytes: int, most_bytes: int = _MOST_BYTES) -> int:
    """How many copies are twice the cache, and two at least; no more than fit `most_bytes`."""
    return max(2, min(-(-2 * cache_bytes // case_bytes), most_bytes // case_bytes))


def cache_bytes(device: torch.device) -> int:
    """The size of the last-level cache."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    said = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(text[:-1]) * units[text[-1]] for text in said if text[-1:] in units), default=_USUAL_CACHE_BYTES)


def _case(tail: Tail, mode: Mode, conditions: Conditions) -> Case:
    x, before = tail.inputs(conditions.device, conditions.dtype)
    with torch.no_grad():
        dy = incoming_gradient(tail.sum(x, before)) if mode.backward else None
    return Case(x.requires_grad_(mode.grad_enabled), before.requires_grad_(mode.grad_enabled), dy)


def _call(forward: Forward, tail: Tail, rotation: Rotation, mode: Mode) -> Values:
    x, before, dy = rotation()
    with torch.set_grad_enabled(mode.grad_enabled):
        y = forward(x, before)
        return {"output": y, **({} if dy is None else tail.gradients(y, (x, before), dy))}


def _errors(calls: Mapping[str, Callable[[], Values]], dtype: torch.dtype, outcome: Outcome) -> dict[str, float]:
    """Errors of those that are right."""
    exact = {name: value.detach().double() for name, value in calls[EAGER]().items()}
    right: dict[str, float] = {}
    for name, call in calls.items():
        try:
            error = largest_error(call(), exact)
        except Exception as raised:
            outcome.failed[name] = said(raised)
            continue
        (right if error <= TOLERANCE[dtype] else outcome.wrong)[name] = error
    return right


def said(error: Exception) -> str:
    """For a note."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
