"""The result's columns and rows."""

from __future__ import annotations

from collections.abc import Sequence

from ..modes import Mode
from ..result import Column, Row
from ..table import table
from ..tail_shapes import DistinctTail
from .measure import Measured
from .work import Ceilings, Work, compulsory

COLUMNS = [
    Column("tail", "key"),
    Column("mode", "key"),
    Column("way", "key"),
    Column("kind", "key", shown=False),
    Column("blocks", "key", shown=False),
    Column("time", "measured", "us", better="lower"),
    Column("queued in", "measured", "us", better="lower", shown=False),
    Column("moved", "measured", "GB/s", better="higher"),
    Column("computed", "measured", "TFLOP/s", better="higher"),
    Column("roofline", "measured", better="higher"),
    Column("peak memory", "measured", "B", better="lower"),
    Column("error", "measured", better="lower", shown=False),
    Column("launches", "counted", better="lower"),
    Column("bytes", "counted", "B", better="lower"),
    Column("operations", "counted", better="lower", shown=False),
    Column("needed bytes", "counted", "B", shown=False),
    Column("needed operations", "counted", shown=False),
]


def name_of(tail: DistinctTail) -> str:
    """The name of the tail's rows."""
    return f"{tail.shape.network} {tail.shape.block}"


def row_of(
    tail: DistinctTail, mode: Mode, way: str, measured: Measured, ceilings: Ceilings, element_size: int, moves: bool
) -> Row:
    """The row of one way. `moves` tells whether it moves the bytes that are counted for it."""
    work, seconds = compulsory(tail.shape, mode, element_size), measured.times.device.median
    counted = measured.counted
    return {
        "tail": name_of(tail),
        "mode": mode.name,
        "way": way,
        "kind": tail.shape.kind,
        "blocks": ", ".join(f"{network} {count}" for network, count in tail.blocks.items()),
        "time": measured.times.device.scaled(1e6),
        "queued in": measured.times.host.scaled(1e6),
        "moved": counted.bytes / seconds / 1e9 if counted is not None and moves else None,
        "computed": work.operations / seconds / 1e12,
        "roofline": work.seconds(ceilings) / seconds,
        "peak memory": measured.peak_bytes,
        "error": measured.error,
        "launches": measured.launches,
        "bytes": None if counted is None else counted.bytes,
        "operations": None if counted is None else counted.operations,
        "needed bytes": work.bytes,
        "needed operations": work.operations,
    }


def work_of(row: Row) -> Work:
    """The compulsory work that a row tells."""
    needed = row["needed bytes"], row["needed operations"]
    assert all(isinstance(n, int) for n in needed)
    return Work(*needed)  # type: ignore[arg-type]


def tails_table(tails: Sequence[DistinctTail]) -> str:
    """What the tails are, and how many blocks of each network have them."""
    rows = []
    for tail in tails:
        shape = tail.shape
        blocks = ", ".join(f"{network.replace('resnet', '')}: {count}" for network, count in tail.blocks.items())
        rows.append((name_of(tail), shape.kind, f"{shape.channels} x {shape.size} x {shape.size}", blocks))
    return table(("tail", "main+shortcut", "output", "blocks of each ResNet"), rows)
