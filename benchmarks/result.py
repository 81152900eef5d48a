"""What a benchmark finds out: a table whose columns say what they are, with where it comes from; a JSON file.

The file describes itself, so that two of any benchmark can be compared and all of them shown on one page.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .errors import UserError
from .provenance import Provenance


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a number that was measured several times."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least two values."""
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    @classmethod
    def of_ratios(cls, values: Sequence[float], others: Sequence[float]) -> Spread:
        """The spread of value / other, pair by pair: a drift of the machine hardly changes a pair's ratio."""
        return cls.of([a / b for a, b in zip(values, others, strict=True)])

    def scaled(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.median * factor, self.lower * factor, self.upper * factor)


Origin: TypeAlias = Literal["key", "measured", "counted", "modelled"]
Value: TypeAlias = str | int | float | bool | Spread | None
Row: TypeAlias = dict[str, Value]


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: of the values in the rows; a row without one has no such value.
        origin: "key": it tells rows apart, as all keys together do; "measured": another run would give another number;
            "counted": exact, the same in every run; "modelled": from counts and from constants of a GPU.
        unit: such as "us" or "B"; empty for names and plain numbers.
        better: which values are; None where neither is.
        shown: whether `Result.table` has it; the file always has.
    """

    name: str
    origin: Origin
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    shown: bool = True

    @property
    def heading(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True)
class Result:
    """A run of a benchmark; attributes are named as in the file.

    Attributes:
        benchmark: its name on the command line.
        settings: what was run, where the command line's arguments do not say it.
        rows: values by their columns' names.
        notes: what a reader must know, a sentence each: what was left out and why, what a number is not.
        details: whatever else the benchmark's own picture needs.
    """

    benchmark: str
    provenance: Provenance
    settings: dict[str, Any]
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """Names of the columns that tell rows apart."""
        return [column.name for column in self.columns if column.origin == "key"]

    def key(self, row: Row) -> tuple[Value, ...]:
        """What tells this row from all others."""
        return tuple(row.get(name) for name in self.keys)

    def table(self) -> str:
        """All rows, for a terminal, without columns that are empty throughout; of no rows, the keys."""
        filled = {name for row in self.rows for name, value in row.items() if value is not None}
        shown = [c for c in self.columns if c.shown and (c.name in filled or c.origin == "key")]
        return table([c.heading for c in shown], [[text(row.get(c.name)) for c in shown] for row in self.rows])

    def write(self, path: Path) -> None:
        """The JSON file."""
        write_json(self, path)


def write_json(content: Any, path: Path) -> None:
    """Writes a dataclass, lists of numbers on one line each. No reader meets half of a file."""
    text = json.dumps(asdict(content), indent=2)
    text = re.sub(r"\[[\s\d.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def read(path: Path) -> Result:
    """The result in a file.

    Raises:
        UserError: there is none; the message says what was found and what was expected.
    """
    expected = "expected a JSON file that a benchmark has written with --json"
    if not path.is_file():
        raise UserError(f"{path}: no such file, {expected}")
    try:
        return _result(json.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}), {expected}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a result ({type(error).__name__}: {error}), {expected}") from error


def _result(found: dict[str, Any]) -> Result:
    parts = {
        "provenance": Provenance(**found["provenance"]),
        "columns": [Column(**column) for column in found["columns"]],
        "rows": [{k: Spread(**v) if isinstance(v, dict) else v for k, v in row.items()} for row in found["rows"]],
    }
    return Result(**{**found, **parts})


def grouped(rows: Sequence[Row], outer: str, inner: str) -> dict[str, dict[str, Row]]:
    """Rows by the texts of two of their values, in order."""
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(str(row[outer]), {})[str(row[inner])] = row
    return groups


def number(value: Value) -> float | None:
    """A spread's median; None of what is no number."""
    if isinstance(value, Spread):
        return value.median
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def amount(row: Row, name: str) -> float:
    """A row's number, 0 where there is none."""
    return number(row.get(name)) or 0.0


def text(value: Value) -> str:
    """For people: three or four digits of what is measured, all of what is counted; a spread with its quartiles."""
    if value is None:
        return ""
    if isinstance(value, Spread):
        return f"{text(value.median)} ({text(value.lower)} to {text(value.upper)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else _digits(value)


def _digits(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    places = next((places for limit, places in ((100, 0), (10, 1), (1, 2)) if abs(value) >= limit), 3)
    return f"{value:.{places}f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text: the first column to the left and the others to the right, under an underlined header."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        first, *rest = zip(row, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def provenance_line(result: Result) -> str:
    """Machine, versions, commit and date on one line."""
    p = result.provenance
    commit = "no git checkout" if p.commit is None else p.commit[:12] + (" with changes" if p.dirty else "")
    threads = "" if p.threads is None else f" {p.threads} thread{'' if p.threads == 1 else 's'},"
    return (
        f"{p.device}, {p.cores} CPU cores,{threads} PyTorch {p.torch},"
        f" fused_resnet {p.fused_resnet} ({commit}, {p.backend} backend), {p.date[:10]}"
    )
