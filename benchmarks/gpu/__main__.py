"""Runs the parts: ``python -m benchmarks.gpu [--out FOLDER] [--part PART] [--rehearse]``."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from ..process import ROOT
from ..result import table
from . import __doc__ as description
from .machine import look_up
from .parts import PARTS
from .record import Record

RESULTS = ROOT / "benchmarks" / "results"
# Ignored by git.
REHEARSAL_RESULTS = ROOT / "build" / "rehearsal"
# Limits of a whole run: its last parts get what those before them leave. A rehearsal has few cores and no GPU.
LIMIT_S, REHEARSAL_LIMIT_S = 480.0, 600.0
_TEXT_LENGTH = 100


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
    print(f"\n{story(records, chosen)}\n\nresults are in {folder}")
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


def story(records: Sequence[Record], chosen: Sequence[str]) -> str:
    """A line a part: whether it passed, how long it took, what it found."""
    rows = [(r.part, "passed" if r.passed else "FAILED", f"{r.seconds:.0f} s", _result(r)) for r in records]
    rows += [(name, "not run", "", "the build failed") for name in chosen[len(records) :]]
    lines = table(("part", "", "time"), [row[:3] for row in rows]).splitlines()
    # The last column is text, which reads badly aligned to the right.
    width = max(map(len, lines))
    results = ["result", "", *(row[3] for row in rows)]
    return "\n".join(f"{line:<{width}}  {text}".rstrip() for line, text in zip(lines, results, strict=True))


def _result(record: Record) -> str:
    """One line on what was found."""
    first = record.problems[0].strip().splitlines()[-1] if record.problems else ""
    return "; ".join(part[:_TEXT_LENGTH] for part in (record.headline, first) if part)


if __name__ == "__main__":
    sys.exit(main())
