"""How long each phase of the kernels takes on a GPU, by a model: for kernels that no GPU has met yet.

What a phase has to do is counted (``counting.py``), how long a GPU takes for each kind of work is fitted once to
measured times (``gpu_time.py``). The table has every phase that was measured: as it was measured, by the model with the
kernels as they were then, and by the model with the kernels as they are.

--count   counts the kernels of this checkout in the emulator again, half an hour on one core. It holds a GPU's grid of
          blocks at the same time: ``sysctl vm.max_map_count=1000000`` first
--fit     fits the GPU's constants to the measured times again, a minute
--held-out    tells how many phases constants meet that were fitted without their tails, two minutes

docs/model.md says what the model takes for granted, and how well it does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .. import options
from ..phases.columns import EAGER, whole
from ..provenance import provenance
from ..result import Result, read
from . import counts, fit, gpu_time
from .rows import COLUMNS, Compared, rows_of

MEASURED = Path(__file__).parents[1] / "results" / "phases-h100.json"


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
        gpu_time.write(fit.fitted(fit.observed(measured, counts.read(counts.THEN))))
    if arguments.held_out:
        close, total = fit.held_out(measured, counts.read(counts.THEN))
        print(f"Fitted without their tails, the constants meet {close} of {total} phases within 25 %.")
    options.finish(compared(measured, arguments), arguments)
    return 0


def compared(measured: Result, arguments: argparse.Namespace) -> Result:
    """The table: measured, and by the model with the kernels as they were and as they are."""
    gpu, then, now = gpu_time.read(), counts.read(counts.THEN), counts.read(counts.NOW)
    rows = rows_of(Compared(measured, gpu, then, now))
    settings = {"gpu": measured.provenance.device, "dtype": "bfloat16", "batch": measured.settings["batch"]}
    close = [row for row in rows if abs(float(str(row["then, modelled"])) / float(str(row["measured"])) - 1) <= 0.25]
    notes = [
        f"The model meets {len(close)} of {len(rows)} measured phases, to which it was fitted, within 25 %.",
        "No GPU has run the kernels as they are: their times are modelled.",
    ]
    details = {"eager": {row["tail"]: whole(row) for row in measured.rows if row["way"] == EAGER}}
    return Result("model", provenance(torch.device("cpu"), arguments), settings, COLUMNS, rows, notes, details)
