"""How long each phase of the kernels takes on a GPU, by a model: for kernels that no GPU has met yet.

What a phase has to do is counted (``counting.py``), how long a GPU takes for each kind of work is fitted once to
measured times (``gpu_time.py``). The table has every phase that was measured: as it was measured, by the model with the
kernels as they were then, and by the model with the kernels as they are.

--count   counts the kernels of this checkout in the emulator again, five minutes. It holds a GPU's grid of
          blocks at the same time: ``sysctl vm.max_map_count=1000000`` first
--fit     fits the GPU's constants to the measured times again
--held-out    tells how many phases constants meet that were fitted without their tails

docs/model.md says what the model takes for granted, and how well it does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from .. import options
from ..launches import PHASES
from ..phases.columns import EAGER, whole
from ..provenance import provenance
from ..result import Column, Result, Row, amount, number, read
from . import counts, fit, gpu_time

MEASURED = Path(__file__).parents[1] / "results" / "phases-h100.json"
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--count", action="store_true", help="count the kernels of this checkout again")
    parser.add_argument("--fit", action="store_true", help="fit the constants to the measured times again")
    parser.add_argument("--held-out", action="store_true", help="judge the fit on tails that it leaves out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the picture")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; counts and fits first, if asked to."""
    options.check_files(arguments)
    if arguments.count:
        counts.write(counts.NOW, counts.count_all())
    measured = read(MEASURED)
    if arguments.fit:
        gpu_time.write(fit.fitted(fit.observed(measured, counts.read(counts.THEN)), fit.ceilings(measured)))
    if arguments.held_out:
        close, total = fit.held_out(measured, counts.read(counts.THEN))
        print(f"Fitted without their tails, the constants meet {close} of {total} phases within 25 %.")
    options.finish(compared(measured, arguments), arguments)
    return 0


def compared(measured: Result, arguments: argparse.Namespace) -> Result:
    """The table: measured, and by the model with the kernels as they were and as they are."""
    rows = list(_rows(measured, gpu_time.read(), counts.read(counts.THEN), counts.read(counts.NOW)))
    settings = {"gpu": measured.provenance.device, "dtype": "bfloat16", "batch": measured.settings["batch"]}
    close = [row for row in rows if abs(amount(row, "then, modelled") / amount(row, "measured") - 1) <= 0.25]
    notes = [
        f"The model meets {len(close)} of {len(rows)} measured phases, to which it was fitted, within 25 %.",
        "No GPU has run the kernels as they are: their times are modelled.",
    ]
    details = {"eager": {row["tail"]: whole(row) for row in measured.rows if row["way"] == EAGER}}
    return Result("model", provenance(torch.device("cpu"), arguments), settings, COLUMNS, rows, notes, details)


def _rows(measured: Result, gpu: gpu_time.Gpu, then: counts.Counts, now: counts.Counts) -> Iterator[Row]:
    """A row for every phase that was measured and counted, of both kernels."""
    copy = fit.ceilings(measured).memory
    for row in measured.rows:
        for phase in PHASES:
            key = str(row["tail"]), str(row["way"]), phase
            milliseconds = number(row.get(phase))
            if milliseconds is None or key not in then or key not in now:
                continue
            modelled = gpu_time.seconds(now[key], gpu)
            yield {
                "tail": key[0],
                "way": key[1],
                "phase": phase,
                "measured": milliseconds,
                "then, modelled": _digits(gpu_time.seconds(then[key], gpu) * 1e3),
                "now, modelled": _digits(modelled * 1e3),
                "limit": gpu_time.limit(now[key], gpu),
                "of a copy": _digits(now[key].distinct / modelled / copy),
                "bytes": round(now[key].distinct),
            }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
