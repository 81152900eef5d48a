"""The result in words and in a few rows."""

from __future__ import annotations

from ..result import Result, Row, number, text
from .ranks import SYNCHRONISED
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
    processes = of_ranks(result.rows)
    synchronised = [_synchronised(row) for row in processes if row.get(f"{SYNCHRONISED} rate") is not None]
    return header, [*rows, *map(_ranks, processes), *synchronised]


def _ends(rows: list[Row]) -> list[Row]:
    return [rows[0], rows[-1]] if len(rows) > 1 else rows


def _point(row: Row) -> list[str]:
    times = [f"{text(number(row[side]))} ms" for side in (FUSED, EAGER)]
    return [f"{row['sweep']} = {row['value']:,} ({row['strategy']})", *times, text(row["fused / eager"])]


def _ranks(row: Row) -> list[str]:
    return [f"ranks = {row['value']}", _rate(row, FUSED), _rate(row, EAGER), text(row["fused / eager"])]


def _synchronised(row: Row) -> list[str]:
    return [f"ranks = {row['value']}, norms of tails synchronised", _rate(row, SYNCHRONISED), "", ""]


def _rate(row: Row, side: str) -> str:
    return f"{text(number(row[f'{side} rate']))} images/s a rank ({row[f'{side} efficiency']:.0%})"
