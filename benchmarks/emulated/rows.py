"""A row for each direction of a tail: what was counted beside its formula."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from ..result import Column, Origin, Row
from .cases import Case
from .counting import Counted, count
from .formulas import Expected, expected

DIRECTIONS = ("forward", "backward")
_COUNTED: Origin = "counted"
COLUMNS = [
    Column("tail", "key"),
    Column("mode", "key"),
    Column("direction", "key"),
    Column("launched", _COUNTED),
    Column("expected launch", _COUNTED, shown=False),
    Column("launches", _COUNTED, better="lower", shown=False),
    Column("read", _COUNTED, "y", better="lower"),
    Column("written", _COUNTED, "y", better="lower"),
    Column("formula", _COUNTED, "y", better="lower"),
    Column("outside", _COUNTED, "y", better="lower"),
    Column("requested", _COUNTED, "y", better="lower"),
    Column("bytes read", _COUNTED, "B", better="lower", shown=False),
    Column("bytes written", _COUNTED, "B", better="lower", shown=False),
    Column("bytes by formula", _COUNTED, "B", better="lower", shown=False),
    Column("bytes outside", _COUNTED, "B", better="lower", shown=False),
    Column("bytes requested", _COUNTED, "B", better="lower", shown=False),
    Column("MACs", _COUNTED, "M", better="lower"),
    Column("multiply-adds", _COUNTED, better="lower", shown=False),
    Column("multiply-adds by formula", _COUNTED, better="lower", shown=False),
    Column("operations by formula", _COUNTED, better="lower", shown=False),
    Column("differs", _COUNTED),
]


def rows_of(case: Case, dtype: torch.dtype) -> list[Row]:
    """Forward and backward."""
    y = case.shape.rows * case.shape.channels * dtype.itemsize
    pairs = zip(DIRECTIONS, count(case, dtype), expected(case, dtype), strict=True)
    return [{"tail": case.shape.name, "mode": case.mode, "direction": d, **_row(c, e, y)} for d, c, e in pairs]


def _row(counted: Counted, formula: Expected, y: int) -> Row:
    return {
        "launched": _launch(len(counted.kernels), " + ".join(counted.kernels), counted.cooperative),
        "expected launch": _launch(1, formula.kernel, formula.cooperative),
        "launches": len(counted.kernels),
        **_bytes(counted, formula),
        **{name: value / y for name, value in zip(_IN_OUTPUTS, _bytes(counted, formula).values(), strict=True)},
        "MACs": counted.multiply_adds / 1e6,
        "multiply-adds": counted.multiply_adds,
        "multiply-adds by formula": formula.multiply_adds,
        "operations by formula": formula.operations,
        "differs": ", ".join(_differences(counted, formula)) or None,
    }


_IN_OUTPUTS = ("read", "written", "formula", "outside", "requested")


def _bytes(counted: Counted, formula: Expected) -> dict[str, int]:
    return {
        "bytes read": counted.read,
        "bytes written": counted.written,
        "bytes by formula": formula.bytes,
        "bytes outside": counted.outside,
        "bytes requested": counted.requested,
    }


def _launch(count: int, kernels: str, cooperative: bool) -> str:
    return f"{count} {kernels}{', coop.' * cooperative}"


def _differences(counted: Counted, formula: Expected) -> Iterator[str]:
    """What was counted and is not as the formula has it."""
    # The emulator names kernels without their template arguments.
    if counted.kernels != [formula.kernel.partition("<")[0]] or counted.cooperative != formula.cooperative:
        yield "launches"
    if counted.read + counted.written != formula.bytes:
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
