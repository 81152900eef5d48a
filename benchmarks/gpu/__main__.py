"""Runs the parts: ``python -m benchmarks.gpu [--out FOLDER] [--part PART] [--rehearse]``."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import __doc__ as description
from . import build, compiled, correctness, counters, cuda_tests, networks, phases, sanitize
from .machine import look_up
from .process import ROOT
from .record import Record
from .story import story

RESULTS = ROOT / "benchmarks" / "results"
# Ignored by git.
REHEARSAL_RESULTS = ROOT / "build" / "rehearsal"
# Of a whole run: its last parts get what those before them have left. A rehearsal has few cores, and no GPU of its own.
LIMIT_S, REHEARSAL_LIMIT_S = 480.0, 600.0


@dataclass(frozen=True)
class Part:
    """`run(record, rehearse)` ends within the record's limit."""

    limit_s: float
    run: Callable[[Record, bool], None]


PARTS = {
    "build": Part(60, build.run_part),
    "checks": Part(30, correctness.run_part),
    "tests": Part(30, cuda_tests.run_part),
    "phases": Part(40, phases.run_part),
    "training": Part(60, networks.run_training),
    "evaluation": Part(20, networks.run_evaluation),
    "compiled": Part(140, compiled.run_part),
    "sanitize": Part(60, sanitize.run_part),
    "counters": Part(45, counters.run_part),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one part, or all in their order, and returns 0 where all passed."""
    arguments = _parser().parse_args(argv)
    folder = Path(arguments.out or (REHEARSAL_RESULTS if arguments.rehearse else RESULTS)).resolve()
    chosen = [arguments.part] if arguments.part else list(PARTS)
    machine = {**look_up(), "rehearsal": arguments.rehearse}
    deadline = time.monotonic() + LIMIT_S
    records: list[Record] = []
    for name in chosen:
        limit_s = REHEARSAL_LIMIT_S if arguments.rehearse else limit_of(name, deadline - time.monotonic())
        records.append(_run_part(Record(folder, name, machine, limit_s), arguments.rehearse))
        if name == "build" and not records[-1].passed:
            break
    print(story(records, chosen))
    print(f"results are in {folder}")
    return 0 if len(records) == len(chosen) and all(record.passed for record in records) else 1


def limit_of(part: str, left_s: float) -> float:
    """Seconds for a part, with what is left of the whole run."""
    return min(PARTS[part].limit_s, left_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Empty where `make gpu` was given none.
    parser.add_argument("--out", metavar="FOLDER", default="", help="default: benchmarks/results")
    parser.add_argument("--part", choices=["", *PARTS], default="", help="default: all, in this order")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: tiny sizes, the kernels on the CPU")
    return parser


def _run_part(record: Record, rehearse: bool) -> Record:
    machine = record.machine
    try:
        if machine["gpu"] is None and not rehearse:
            record.problem(machine.get("problem") or "torch finds no GPU: --rehearse runs without one")
        elif record.left_s <= 0:
            record.problem("no time was left")
        else:
            PARTS[record.part].run(record, rehearse)
    except Exception:  # a part that fails must not take the others with it
        record.problem(traceback.format_exc())
    record.close()
    return record


if __name__ == "__main__":
    sys.exit(main())
