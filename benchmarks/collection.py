"""The results in a folder, each with the benchmark that can draw it."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from matplotlib.figure import Figure

from .errors import UserError
from .result import Result, read

FOLDER = Path(__file__).parent / "results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--results``, the folder."""
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", default=FOLDER, help="default: benchmarks/results in the repository"
    )


class Benchmark(Protocol):
    """What a benchmark's module knows of its own results."""

    def draw(self, result: Result) -> Figure: ...

    def caption(self, result: Result) -> str: ...

    def headline(self, result: Result) -> tuple[list[str], list[list[str]]]: ...


@dataclass(frozen=True)
class Entry:
    """A result, the file it is in, and its benchmark."""

    path: Path
    result: Result
    benchmark: Benchmark

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
    name = f"benchmarks.{result.benchmark}"
    if not str(result.benchmark).isidentifier() or importlib.util.find_spec(name) is None:
        raise UserError(f"{path}: of the benchmark {result.benchmark!r}, which is not here")
    benchmark = importlib.import_module(name)
    if not all(hasattr(benchmark, name) for name in ("draw", "caption", "headline")):
        raise UserError(f"{path}: of the benchmark {result.benchmark!r}, which draws no results")
    return Entry(path, result, cast(Benchmark, benchmark))
