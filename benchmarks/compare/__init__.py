"""Compares two results of one benchmark, number by number.

Tells what differs in machine, versions and settings; then, column by column,
each number of A beside that of B with the ratio B / A and whether that is
better or worse. Measured numbers whose quartile ranges overlap are "within the
spread": no change can be told. Of counted numbers, those that differ are
shown: they are exact, so that each is a change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import options
from ..errors import UserError
from ..result import Result, Row, provenance_line, read, table
from .comparison import UNCHANGED, compare, differences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("a", type=Path, metavar="A.json", help="a result, the one to start from")
    parser.add_argument("b", type=Path, metavar="B.json", help="a result of the same benchmark")
    parser.add_argument(
        "--columns", metavar="NAME,NAME", type=lambda text: text.split(","), help="these alone; default: all"
    )
    parser.add_argument("--only-changed", action="store_true", help="leave out what is the same or within the spread")
    options.add_file_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the comparison; the exit status does not judge it."""
    options.check_files(arguments)
    a, b = read(arguments.a), read(arguments.b)
    result = compare(a, b)
    if arguments.columns is not None:
        _keep_columns(result, arguments.columns)
    print(f"A: {provenance_line(a)}\nB: {provenance_line(b)}\n")
    differ = [(name, *texts) for name, texts in differences(a, b).items()]
    print(table(("differs", "A", "B"), differ) if differ else "Machine, versions, commit and settings are the same.")
    print("".join(f"\n- {note}" for note in result.notes))
    for name, summary in result.details["columns"].items():
        rows = [row for row in result.rows if row["compared"] == name]
        print(f"\n{summary['heading']}: {summary['text']}")
        if shown := [row for row in rows if _shown(row, summary, arguments.only_changed)]:
            print(f"\n{_table(result, shown)}")
    options.write(result, arguments)
    return 0


def _keep_columns(result: Result, names: list[str]) -> None:
    columns = result.details["columns"]
    known = [summary["name"] for summary in columns.values()]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--columns is {', '.join(unknown)}, expected some of {', '.join(known)}")
    for heading in [heading for heading, summary in columns.items() if summary["name"] not in names]:
        del columns[heading]
    result.rows[:] = [row for row in result.rows if row["compared"] in columns]


def _shown(row: Row, summary: dict[str, str], only_changed: bool) -> bool:
    return row["verdict"] not in UNCHANGED or not (only_changed or summary["origin"] == "counted")


def _table(result: Result, rows: list[Row]) -> str:
    """Without the keys that do not tell rows apart."""
    columns = [c for c in result.columns if c.origin != "key" or c.name in result.details["keys"]]
    shown: list[Row] = [{**row, "B / A": f"{ratio:.3f}" if (ratio := row["B / A"]) else None} for row in rows]
    return Result(result.benchmark, result.provenance, {}, columns, shown).table()
