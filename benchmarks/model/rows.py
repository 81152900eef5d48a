"""The result's columns and rows: a row is a phase of a tail, computed in one way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..launches import PHASES
from ..result import Column, Result, Row, number
from .counts import Counts
from .gpu_time import Gpu, limit, seconds

COLUMNS = [
    Column("tail", "key"),
    Column("way", "key"),
    Column("phase", "key"),
    Column("measured", "measured", "ms", better="lower"),
    Column("then, modelled", "modelled", "ms", better="lower"),
    Column("now, modelled", "modelled", "ms", better="lower"),
    Column("limit", "modelled"),
    Column("of a copy", "modelled", better="higher"),
    Column("bytes", "counted", "B", better="lower", shown=False),
]


@dataclass(frozen=True)
class Compared:
    """What the rows are made of: measured times, the GPU that they were measured on, and counts of both kernels."""

    measured: Result
    gpu: Gpu
    then: Counts
    now: Counts


def rows_of(of: Compared) -> list[Row]:
    """A row for every phase that was measured and counted."""
    return list(_rows(of))


def _rows(of: Compared) -> Iterator[Row]:
    copy = float(of.measured.details["ceilings"]["bytes_per_s"])
    for row in of.measured.rows:
        for phase in PHASES:
            key = str(row["tail"]), str(row["way"]), phase
            milliseconds = number(row.get(phase))
            if milliseconds is None or key not in of.then or key not in of.now:
                continue
            now = of.now[key]
            modelled = seconds(now, of.gpu)
            yield {
                "tail": key[0],
                "way": key[1],
                "phase": phase,
                "measured": milliseconds,
                "then, modelled": _digits(seconds(of.then[key], of.gpu) * 1e3),
                "now, modelled": _digits(modelled * 1e3),
                "limit": limit(now, of.gpu),
                "of a copy": _digits(now.distinct / modelled / copy),
                "bytes": round(now.distinct),
            }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
