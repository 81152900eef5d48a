"""The stage ``train``: the benchmark ``training`` on ResNet-50 in bfloat16, in a process with a time limit."""

from __future__ import annotations

import sys
from pathlib import Path

from ..network_ways import compiles
from ..result import Result, read, text
from ..table import table
from ..training.side import COMPILER, MEMORY, MISSING
from ..training.summary import headline
from .process import run
from .record import Record

# For the benchmark, which stops itself, and for the process, in case that it does not.
SECONDS = 400.0
LIMIT_S = 440.0
_ON_GPU = "--device cuda --backend cuda --dtype bfloat16 --models resnet50 --batches 64,256"
_REHEARSED = "--device cpu --backend emulated --dtype bfloat16 --quick --batches 4 --ways eager,fused,compile"
# What is beyond this project is no problem of the stage.
_NOTED = (COMPILER, MEMORY, MISSING)


def run_stage(record: Record, rehearse: bool) -> None:
    if rehearse:
        record.note("a rehearsal on the CPU, of a small network: no time here means anything")
    found = record.folder / "gpu-train-result.json"
    found.unlink(missing_ok=True)
    # A tail that the kernels do not compute is an error.
    environment = {} if rehearse else {"FUSED_RESNET_REQUIRE": "cuda"}
    ended = run(command(rehearse, found), limit_s=LIMIT_S, on_line=record.log, environment=environment)
    if ended.problem is not None:
        record.problem(f"training: {ended.problem}")
    # Written after every batch: what was measured before it hung or crashed is there.
    if found.exists():
        _take(record, read(found))
    else:
        record.problem("nothing was timed")


def command(rehearse: bool, to: Path) -> list[str]:
    """Of the benchmark."""
    chosen = (_REHEARSED if rehearse else _ON_GPU).split()
    return [sys.executable, "-m", "benchmarks", "training", *chosen, "--seconds", str(int(SECONDS)), "--json", str(to)]


def _take(record: Record, result: Result) -> None:
    for row in result.rows:
        record.add(**{name: text(value) for name, value in row.items()})
    for note in result.notes:
        record.note(note)
    for failure in result.details["failures"]:
        if failure["kind"] not in _NOTED and not compiles(failure["way"]):
            record.problem(f"{failure['where']}: {failure['what']}")
    header, lines = headline(result)
    record.log(table(header, lines))
    record.headline = ", ".join(f"{row['way']}, batch {row['batch']}: {text(row['step'])} ms" for row in result.rows)
    if not result.rows:
        record.problem("nothing was timed")
