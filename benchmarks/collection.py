"""The results in a folder, each with the benchmark that can draw it."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from .errors import UserError
from .result import Result, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--results``, the folder."""
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", default=FOLDER, help="default: benchmarks/results in the repository"
    )


class Shown(Protocol):
    """How a benchmark's results are shown: its module ``shown``."""

    def draw(self, result: Result) -> Figure: ...

    def caption(self, result: Result) -> str: ...

    def headline(self, result: Result) -> tuple[list[str], list[list[str]]]: ...


def shown(result: Result) -> Shown:
    """The module of the result's benchmark.

    Raises:
        UserError: there is no such benchmark here.
    """
    problem = UserError(f"of the benchmark {result.benchmark!r}, which draws no results here")
    if not str(result.benchmark).isidentifier():
        raise problem
    try:
        return cast(Shown, importlib.import_module(f"benchmarks.{result.benchmark}.shown"))
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("benchmarks"):
            raise
        raise problem from error


@dataclass(frozen=True)
class Entry:
    """A result, the file it is in, and how it is shown."""

    path: Path
    result: Result
    shown: Shown

    @property
    def name(self) -> str:
        """The file's, without its ending."""
        return self.path.stem

    @property
    def picture(self) -> Path:
        """Where its SVG is kept."""
        return self.path.with_suffix(".svg")


@dataclass(frozen=True)
class Collection:
    """A folder's results in the order of their names; of its other JSON files, why they are none."""

    entries: list[Entry]
    others: dict[Path, str]


def collect(folder: Path) -> Collection:
    """All results of a folder.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected one with files that benchmarks have written with --json")
    entries, others = [], {}
    for path in sorted(folder.glob("*.json")):
        try:
            entries.append(entry(path))
        except UserError as error:
            others[path] = str(error).removeprefix(f"{path}: ")
    return Collection(entries, others)


def entry(path: Path) -> Entry:
    """The result in a file.

    Raises:
        UserError: it is none, or of a benchmark that is not here.
    """
    result = read(path)
    try:
        return Entry(path, result, shown(result))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
