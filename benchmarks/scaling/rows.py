"""What the rows hold: times of a tail at each point, and rates of processes that train."""

from __future__ import annotations

from ..result import Column, Row
from .ranks import SIDES, SWEEP
from .sizes import COMPILED, EAGER, FUSED

COLUMNS = [
    Column("sweep", "key"),
    Column("value", "key"),
    Column("M", "counted", shown=False),
    Column("K", "counted", shown=False),
    Column("C", "counted", shown=False),
    Column("strategy", "counted"),
    *(Column(side, "measured", "ms", better="lower") for side in (FUSED, EAGER, COMPILED)),
    Column("fused / eager", "measured", better="lower"),
    *(Column(f"{side} rate", "measured", "1/s", better="higher") for side in SIDES),
    *(Column(f"{side} efficiency", "measured", better="higher", shown=False) for side in SIDES),
]


def of_sweep(rows: list[Row], sweep: str) -> list[Row]:
    """The sweep's rows, by value."""
    return sorted((row for row in rows if row["sweep"] == sweep), key=lambda row: int(str(row["value"])))


def of_ranks(rows: list[Row]) -> list[Row]:
    """Those of processes."""
    return of_sweep(rows, SWEEP)
