"""Runs a tail's kernels in the emulator: a row for each direction, what was counted beside its formula."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from fused_resnet import use_backend

from ..accuracy import tf32
from ..emulator import Launch, is_activation, recorded_launches
from ..result import Column, Row
from ..tails import Tail
from .formulas import Case, Expected, expected

DIRECTIONS = ("forward", "backward")
# Of activations, distinct ones of each phase, by the formula, of all else, and as often as they are asked for.
_BYTES = {
    "read": "bytes read",
    "written": "bytes written",
    "formula": "bytes by formula",
    "outside": "bytes outside",
    "requested": "bytes requested",
}
COLUMNS = [
    *(Column(name, "key") for name in ("tail", "mode", "direction")),
    Column("launched", "counted"),
    Column("expected launch", "counted", shown=False),
    Column("launches", "counted", better="lower", shown=False),
    *(Column(name, "counted", "y", better="lower") for name in _BYTES),
    *(Column(name, "counted", "B", better="lower", shown=False) for name in _BYTES.values()),
    Column("MACs", "counted", "M", better="lower"),
    Column("multiply-adds", "counted", better="lower", shown=False),
    Column("multiply-adds by formula", "counted", better="lower", shown=False),
    Column("operations by formula", "counted", better="lower", shown=False),
    Column("differs", "counted"),
]


@dataclass(frozen=True)
class Counted:
    """What the launches of one direction did; bytes by `_BYTES`, but for the formula's."""

    kernels: list[str]
    cooperative: bool
    bytes: dict[str, int]
    multiply_adds: int


def count(case: Case, dtype: torch.dtype) -> tuple[Counted, Counted]:
    """Forward and backward, in which all gradients are asked for."""
    torch.manual_seed(0)
    tail = Tail(case.shape, dtype).train(case.training)
    x, before = (t.requires_grad_() for t in tail.inputs("cpu", dtype))
    with tf32(False), use_backend("emulated"):
        with recorded_launches() as forward:
            y = tail.fused(x, before)
        dy = torch.randn_like(y)
        with recorded_launches() as backward:
            tail.gradients(y, (x, before), dy)
    return _counted(forward), _counted(backward)


def _counted(launches: Sequence[Launch]) -> Counted:
    phases = [phase for launch in launches for phase in launch.phases]
    touched = [(is_activation(name), traffic) for phase in phases for name, traffic in phase.buffers.items()]
    inside, outside = ([of for activation, of in touched if activation == wanted] for wanted in (True, False))
    return Counted(
        [launch.kernel for launch in launches],
        all(launch.cooperative for launch in launches),
        {
            "read": sum(of.distinct_read for of in inside),
            "written": sum(of.distinct_written for of in inside),
            "outside": sum(of.distinct_read + of.distinct_written for of in outside),
            "requested": sum(of.requested_read + of.requested_written for of in inside),
        },
        sum(phase.work.multiply_adds for phase in phases),
    )


def rows_of(case: Case, dtype: torch.dtype) -> list[Row]:
    """Forward and backward."""
    y = case.shape.rows * case.shape.channels * dtype.itemsize
    pairs = zip(DIRECTIONS, count(case, dtype), expected(case, dtype), strict=True)
    return [{"tail": case.shape.name, "mode": case.mode, "direction": d, **_row(c, e, y)} for d, c, e in pairs]


def _row(counted: Counted, formula: Expected, y: int) -> Row:
    nbytes = {**counted.bytes, "formula": formula.bytes}
    return {
        "launched": _launch(len(counted.kernels), " + ".join(counted.kernels), counted.cooperative),
        "expected launch": _launch(1, formula.kernel, formula.cooperative),
        "launches": len(counted.kernels),
        **{name: nbytes[name] / y for name in _BYTES},
        **{column: nbytes[name] for name, column in _BYTES.items()},
        "MACs": counted.multiply_adds / 1e6,
        "multiply-adds": counted.multiply_adds,
        "multiply-adds by formula": formula.multiply_adds,
        "operations by formula": formula.operations,
        "differs": ", ".join(_differences(counted, formula)) or None,
    }


def _launch(count: int, kernels: str, cooperative: bool) -> str:
    return f"{count} {kernels}{', coop.' * cooperative}"


def _differences(counted: Counted, formula: Expected) -> Iterator[str]:
    """What was counted and is not as the formula has it."""
    # The emulator names kernels without their template arguments.
    if counted.kernels != [formula.kernel.partition("<")[0]] or counted.cooperative != formula.cooperative:
        yield "launches"
    if counted.bytes["read"] + counted.bytes["written"] != formula.bytes:
        yield "bytes"
    if formula.multiply_adds not in (None, counted.multiply_adds):
        yield "multiply-adds"


def count_all(cases: Sequence[Case], dtype: torch.dtype, jobs: int) -> Iterator[tuple[Case, list[Row]]]:
    """Each case and its rows as they come, those with most work first; one job is this process itself."""
    in_order = sorted(cases, key=lambda case: -case.effort)
    if jobs == 1:
        yield from ((case, rows_of(case, dtype)) for case in in_order)
        return
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        found = {pool.submit(rows_of, case, dtype): case for case in in_order}
        try:
            yield from ((found[done], done.result()) for done in as_completed(found))
        finally:
            pool.shutdown(cancel_futures=True)
