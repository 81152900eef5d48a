"""The numbers of two results, one beside the other, and what their difference means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Literal, TypeAlias, get_args

from ..errors import UserError
from ..result import Column, Result, Row, Value, number
from ..timing import Spread

Key: TypeAlias = tuple[Value, ...]
Verdict: TypeAlias = Literal["better", "worse", "changed", "within the spread", "same", "only in A", "only in B"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
UNCHANGED: tuple[Verdict, ...] = ("same", "within the spread")


@dataclass(frozen=True)
class Pair:
    """One value of a row in both results."""

    key: Key
    column: Column
    a: Value
    b: Value

    @property
    def ratio(self) -> float | None:
        """B / A, of medians; None where one of them is not a positive number."""
        a, b = number(self.a), number(self.b)
        return b / a if a is not None and b is not None and a > 0 and b > 0 else None

    @property
    def verdict(self) -> Verdict:
        """Whether there is a difference, and which."""
        if self.a is None or self.b is None:
            return "only in B" if self.a is None else "only in A"
        if self.a == self.b:
            return "same"
        return "within the spread" if self._overlap else self._direction

    @property
    def is_guess(self) -> bool:
        """Whether the numbers differ, but it is not known how much measured ones would differ without a change."""
        spreads = [isinstance(value, Spread) for value in (self.a, self.b)]
        return self.column.origin == "measured" and self.verdict in ("better", "worse", "changed") and not any(spreads)

    @property
    def _overlap(self) -> bool:
        a, b = _range(self.a), _range(self.b)
        return a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]

    @property
    def _direction(self) -> Verdict:
        a, b = number(self.a), number(self.b)
        if a is None or b is None or self.column.better is None:
            return "changed"
        return "better" if (b < a) == (self.column.better == "lower") else "worse"


def _range(value: Value) -> tuple[float, float] | None:
    """From quartile to quartile; of a number without a spread, that alone."""
    if isinstance(value, Spread):
        return value.lower, value.upper
    only = number(value)
    return None if only is None else (only, only)


@dataclass(frozen=True)
class Comparison:
    """Two results of one benchmark.

    Attributes:
        columns: those compared: what is counted, and what is measured in numbers.
        pairs: row by row, for each of these columns in turn.
        only_a, only_b: rows that the other has not.
        left_out: columns that cannot be compared, and why.
    """

    a: Result
    b: Result
    columns: list[Column]
    pairs: list[Pair]
    only_a: list[Key]
    only_b: list[Key]
    left_out: dict[str, str]

    def of(self, names: Sequence[str]) -> Comparison:
        """These columns alone."""
        return replace(
            self,
            columns=[column for column in self.columns if column.name in names],
            pairs=[pair for pair in self.pairs if pair.column.name in names],
        )

    def column(self, column: Column) -> list[Pair]:
        """The pairs of a column."""
        return [pair for pair in self.pairs if pair.column == column]


def compare(a: Result, b: Result) -> Comparison:
    """Joins the rows by their keys.

    Raises:
        UserError: the results are of different benchmarks, or their rows cannot be told apart.
    """
    if a.benchmark != b.benchmark:
        raise UserError(f"A is of the benchmark {a.benchmark!r}, B of {b.benchmark!r}, expected two of one benchmark")
    if a.keys != b.keys:
        raise UserError(f"rows are told apart by {', '.join(a.keys)} in A, by {', '.join(b.keys)} in B")
    rows_a, rows_b = _by_key(a, "A"), _by_key(b, "B")
    columns, left_out = _comparable(a, b)
    pairs = [
        Pair(key, column, row.get(column.name), rows_b[key].get(column.name))
        for column in columns
        for key, row in rows_a.items()
        if key in rows_b
    ]
    return Comparison(
        a,
        b,
        columns,
        [pair for pair in pairs if pair.a is not None or pair.b is not None],
        [key for key in rows_a if key not in rows_b],
        [key for key in rows_b if key not in rows_a],
        left_out,
    )


def _by_key(result: Result, name: str) -> dict[Key, Row]:
    rows = {result.key(row): row for row in result.rows}
    if len(rows) < len(result.rows):
        often = Counter(map(result.key, result.rows)).most_common(1)[0][0]
        raise UserError(
            f"{name} has several rows {' '.join(map(str, often))!r}, expected rows that differ in their keys"
        )
    return rows


def _comparable(a: Result, b: Result) -> tuple[list[Column], dict[str, str]]:
    of_a, of_b = ({c.name: c for c in result.columns if c.origin != "key"} for result in (a, b))
    left_out = {name: "only in A" for name in of_a if name not in of_b}
    left_out |= {name: "only in B" for name in of_b if name not in of_a}
    columns = []
    for name in (name for name in of_a if name in of_b):
        one, other = of_a[name], of_b[name]
        if (one.unit, one.origin) != (other.unit, other.origin):
            left_out[name] = f"{one.heading}, {one.origin}, in A, but {other.heading}, {other.origin}, in B"
        elif one.origin == "counted" or any(number(r.get(name)) is not None for r in [*a.rows, *b.rows]):
            columns.append(one)
    return columns, left_out


def geometric_mean(pairs: Sequence[Pair]) -> float | None:
    """Of the ratios that there are."""
    logarithms = [log(pair.ratio) for pair in pairs if pair.ratio is not None]
    return exp(sum(logarithms) / len(logarithms)) if logarithms else None


def needed(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """As many of the keys' names, the first of them rather than the last, as tell the rows apart."""
    kept = list(names)
    different = len({tuple(row.get(name) for name in names) for row in rows})
    for name in reversed(names):
        fewer = [other for other in kept if other != name]
        if fewer and len({tuple(row.get(other) for other in fewer) for row in rows}) == different:
            kept = fewer
    return kept


def ratio_text(ratio: float | None) -> str:
    """For people."""
    return "" if ratio is None else f"{ratio:.3f}"
