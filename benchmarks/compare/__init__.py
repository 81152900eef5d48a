"""Compares two results of one benchmark, number by number.

Tells what differs in machine, versions and settings; then each number of A
beside that of B with the ratio B / A and whether that is better or worse.
Measured numbers whose quartile ranges overlap are "within the spread": no
change can be told. Of counted numbers, those that differ are shown: they are
exact, so that each is a change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import options
from ..errors import UserError
from ..result import read
from .comparison import Comparison, compare
from .tables import report, result_of


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
    comparison = compare(read(arguments.a), read(arguments.b))
    if arguments.columns is not None:
        comparison = _of_columns(comparison, arguments.columns)
    print(report(comparison, only_changed=arguments.only_changed))
    options.write(result_of(comparison), arguments)
    return 0


def _of_columns(comparison: Comparison, names: list[str]) -> Comparison:
    known = [column.name for column in comparison.columns]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--columns is {', '.join(unknown)}, expected some of {', '.join(known)}")
    return comparison.of(names)
