"""Runs the stages: ``python -m benchmarks.gpu [--out FOLDER] [--stage STAGE] [--rehearse]``."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from ..table import table
from . import __doc__ as description
from . import build, sanitize, suite, times, train
from .machine import look_up
from .process import ROOT
from .record import Record

STAGES: dict[str, Callable[[Record, bool], None]] = {
    "build": build.run_stage,
    "suite": suite.run_stage,
    "sanitize": sanitize.run_stage,
    "time": times.time_forward,
    "backward": times.time_backward,
    "train": train.run_stage,
}
RESULTS = ROOT / "benchmarks" / "results"
# Ignored by git.
REHEARSAL_RESULTS = ROOT / "build" / "rehearsal"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one stage, or all in their order, and returns 0 where all passed."""
    arguments = _parser().parse_args(argv)
    folder = Path(arguments.out or (REHEARSAL_RESULTS if arguments.rehearse else RESULTS)).resolve()
    chosen = [arguments.stage] if arguments.stage else list(STAGES)
    records: list[Record] = []
    for name in chosen:
        records.append(_run_stage(name, folder, arguments.rehearse))
        if name == "build" and not records[-1].passed:
            break
    print(_summary(records, chosen))
    print(f"results are in {folder}")
    return 0 if len(records) == len(chosen) and all(record.passed for record in records) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Empty where `make gpu` was given none.
    parser.add_argument("--out", metavar="FOLDER", default="", help="default: benchmarks/results")
    parser.add_argument("--stage", choices=["", *STAGES], default="", help="default: all, in this order")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: tiny sizes, the kernels on the CPU")
    return parser


def _run_stage(name: str, folder: Path, rehearse: bool) -> Record:
    machine = {**look_up(), "rehearsal": rehearse}
    record = Record(folder, name, machine)
    try:
        if machine["gpu"] is None and not rehearse:
            record.problem(machine.get("problem") or "torch finds no GPU: --rehearse runs without one")
        else:
            STAGES[name](record, rehearse)
    except Exception:  # a stage that fails must not take the others with it
        record.problem(traceback.format_exc())
    record.close()
    return record


def _summary(records: Sequence[Record], chosen: Sequence[str]) -> str:
    rows = [(r.stage, "passed" if r.passed else "FAILED", f"{r.seconds:.0f} s") for r in records]
    rows += [(name, "not run", "") for name in chosen[len(records) :]]
    results = ["result", "", *map(_result, records), *["the build failed"] * (len(chosen) - len(records))]
    lines = table(("stage", "", "time"), rows).splitlines()
    # The last column is text, which reads badly aligned to the right.
    width = max(map(len, lines))
    return "\n".join(
        ["", *(f"{line:<{width}}  {text}".rstrip() for line, text in zip(lines, results, strict=True)), ""]
    )


def _result(record: Record) -> str:
    """One line on what was found."""
    first = record.problems[0].strip().splitlines()[-1] if record.problems else ""
    return "; ".join(part for part in (record.headline, first[:100]) if part)


if __name__ == "__main__":
    sys.exit(main())
