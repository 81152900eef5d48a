"""The result in words and in a few rows."""

from __future__ import annotations

from ..result import Result, Row, number, text
from .ranks import SIDES
from .rows import of_ranks, of_sweep
from .sweeps import SWEEPS
from .times import EAGER, FUSED


def caption(result: Result) -> str:
    """What the picture shows."""
    of = result.settings
    return (
        f"Measured on {result.provenance.device}: time of forward and backward of one tail ({of['shortcut']} shortcut,"
        f" {of['dtype']}) against rows, channels and batch, fused and eager, and images a second of each of several"
        f" processes that train {of['network'].replace('resnet', 'ResNet-')}."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """The ends of every sweep, and each number of processes."""
    header = ["", "fused (measured)", "eager (measured)", "fused / eager (measured)"]
    rows = [_point(row) for sweep in SWEEPS for row in _ends(of_sweep(result.rows, sweep))]
    return header, rows + [_ranks(row) for row in of_ranks(result.rows)]


def _ends(rows: list[Row]) -> list[Row]:
    return [rows[0], rows[-1]] if len(rows) > 1 else rows


def _point(row: Row) -> list[str]:
    times = [f"{text(number(row[side]))} ms" for side in (FUSED, EAGER)]
    return [f"{row['sweep']} = {row['value']:,} ({row['strategy']})", *times, text(row["fused / eager"])]


def _ranks(row: Row) -> list[str]:
    cells = [f"{text(number(row[f'{side} rate']))} images/s a rank ({row[f'{side} efficiency']:.0%})" for side in SIDES]
    return [f"ranks = {row['value']}", *cells, text(row["fused / eager"])]
