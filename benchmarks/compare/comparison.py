"""The numbers of two results, one beside the other, and what their difference means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import geometric_mean
from typing import Any, Literal, TypeAlias, get_args

from ..errors import UserError
from ..result import Column, Result, Row, Spread, Value, number, text

Key: TypeAlias = tuple[Value, ...]
Verdict: TypeAlias = Literal["better", "worse", "changed", "within the spread", "same", "only in A", "only in B"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
UNCHANGED: tuple[Verdict, ...] = ("same", "within the spread")
_NAMED_ROWS = 3
_MACHINE = ("device", "cpu", "cores", "threads", "system")
# The file that a run wrote makes no difference to what it found.
_LEFT_OUT = ("argument json", "argument plot")


def compare(a: Result, b: Result) -> Result:
    """Joins the rows by their keys: a row for each pair of values.

    Raises:
        UserError: the results are of different benchmarks, or their rows cannot be told apart.
    """
    if a.benchmark != b.benchmark:
        raise UserError(f"A is of the benchmark {a.benchmark!r}, B of {b.benchmark!r}, expected two of one benchmark")
    if a.keys != b.keys:
        raise UserError(f"rows are told apart by {', '.join(a.keys)} in A, by {', '.join(b.keys)} in B")
    rows_a, rows_b = _by_key(a, "A"), _by_key(b, "B")
    columns, left_out = _comparable(a, b)
    both = [(dict(zip(a.keys, key, strict=True)), row, rows_b[key]) for key, row in rows_a.items() if key in rows_b]
    rows = [_pair(keys, column, one, other) for column in columns for keys, one, other in both]
    rows = [row for row in rows if row["A"] is not None or row["B"] is not None]
    notes = [
        *_warnings(a, b),
        *(f"Only A has {_rows(alone)}." for alone in [[key for key in rows_a if key not in rows_b]] if alone),
        *(f"Only B has {_rows(alone)}." for alone in [[key for key in rows_b if key not in rows_a]] if alone),
        *(f"Not compared: {name} ({why})." for name, why in left_out.items()),
    ]
    keys = [Column(name, "key") for name in [*a.keys, "compared"]]
    values = [Column(name, "measured") for name in ("A", "B", "B / A", "verdict")]
    details = {
        "A": asdict(a.provenance),
        "keys": needed(a.keys, a.rows),
        "columns": {c.heading: _summary(c, [row for row in rows if row["compared"] == c.heading]) for c in columns},
    }
    return Result("compare", b.provenance, {"benchmark": b.benchmark}, [*keys, *values], rows, notes, details)


def _pair(keys: dict[str, Value], column: Column, one: Row, other: Row) -> Row:
    a, b = one.get(column.name), other.get(column.name)
    return {
        **keys,
        "compared": column.heading,
        "A": a,
        "B": b,
        "B / A": ratio(a, b),
        "verdict": verdict(column, a, b),
    }


def ratio(a: Value, b: Value) -> float | None:
    """B / A, of medians; None where one of them is not a positive number."""
    one, other = number(a), number(b)
    return other / one if one is not None and other is not None and one > 0 and other > 0 else None


def verdict(column: Column, a: Value, b: Value) -> Verdict:
    """Whether there is a difference, and which."""
    if a is None or b is None:
        return "only in B" if a is None else "only in A"
    if a == b:
        return "same"
    one, other = quartiles(a), quartiles(b)
    if one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]:
        return "within the spread"
    if one is None or other is None or column.better is None:
        return "changed"
    return "better" if (other < one) == (column.better == "lower") else "worse"


def quartiles(value: Value) -> tuple[float, float] | None:
    """Both quartiles of a number; a number without a spread takes their place itself."""
    if isinstance(value, Spread):
        return value.lower, value.upper
    only = number(value)
    return None if only is None else (only, only)


def _by_key(result: Result, name: str) -> dict[Key, Row]:
    rows = {result.key(row): row for row in result.rows}
    if len(rows) < len(result.rows):
        often = " ".join(map(str, Counter(map(result.key, result.rows)).most_common(1)[0][0]))
        raise UserError(f"{name} has several rows {often!r}, expected rows that differ in their keys")
    return rows


def _comparable(a: Result, b: Result) -> tuple[list[Column], dict[str, str]]:
    """What is counted, and what is measured in numbers; why others cannot be compared."""
    of_a, of_b = ({c.name: c for c in result.columns if c.origin != "key"} for result in (a, b))
    left_out = {name: f"only in {'A' if name in of_a else 'B'}" for name in of_a.keys() ^ of_b.keys()}
    columns = []
    for name in (name for name in of_a if name in of_b):
        one, other = of_a[name], of_b[name]
        if (one.unit, one.origin) != (other.unit, other.origin):
            left_out[name] = f"{one.heading}, {one.origin}, in A, but {other.heading}, {other.origin}, in B"
        elif one.origin == "counted" or any(number(r.get(name)) is not None for r in [*a.rows, *b.rows]):
            columns.append(one)
    return columns, left_out


def _summary(column: Column, rows: list[Row]) -> dict[str, Any]:
    """A column's heading and origin, the geometric mean of its ratios, how often there is each verdict."""
    ratios = [own for row in rows if (own := number(row["B / A"])) is not None]
    mean = geometric_mean(ratios) if ratios else None
    counts = Counter(str(row["verdict"]) for row in rows)
    said = [] if mean is None else [f"B / A {mean:.3f} (geometric mean)"]
    said += [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    changed = [row for row in rows if row["verdict"] in ("better", "worse", "changed")]
    if column.origin == "measured" and any(not isinstance(row[side], Spread) for row in changed for side in "AB"):
        said.append("without a spread, so that a difference need not be a change")
    direction = f", {column.better} is better" if column.better else ""
    return {
        "name": column.name,
        "origin": column.origin,
        "heading": f"{column.heading} ({column.origin}{direction})",
        "B / A": mean,
        "counts": {verdict: counts[verdict] for verdict in VERDICTS},
        "text": ", ".join(said) or "no values",
    }


def _rows(keys: list[Key]) -> str:
    named = "; ".join(" ".join(map(text, key)) for key in keys[:_NAMED_ROWS])
    more = len(keys) - _NAMED_ROWS
    return f"{len(keys)} row{'s' * (len(keys) > 1)}: {named}{f'; and {more} more' if more > 0 else ''}"


def needed(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """As many of the keys' names, the first of them rather than the last, as tell the rows apart."""
    kept = list(names)
    different = len({tuple(row.get(name) for name in names) for row in rows})
    for name in reversed(names):
        fewer = [other for other in kept if other != name]
        if fewer and len({tuple(row.get(other) for other in fewer) for row in rows}) == different:
            kept = fewer
    return kept


def differences(a: Result, b: Result) -> dict[str, tuple[str, str]]:
    """Names of what is not the same in both besides the numbers, with the texts of A and B."""
    of_a, of_b = _described(a), _described(b)
    names = [name for name in {**of_a, **of_b} if name not in _LEFT_OUT and of_a.get(name) != of_b.get(name)]
    return {name: (_said(of_a.get(name)), _said(of_b.get(name))) for name in names}


def _warnings(a: Result, b: Result) -> Iterator[str]:
    """What forbids to take measured differences for those of a change."""
    if machine := [name for name in _MACHINE if name in differences(a, b)]:
        names = ", ".join(machine)
        yield f"The machines differ ({names}): measured ratios compare them, too; counted numbers do not."
    for name, result in (("A", a), ("B", b)):
        if result.provenance.arguments.get("quick"):
            yield f"{name} is a smoke run: its numbers say nothing of real sizes."
        if result.provenance.dirty:
            yield f"{name} is of a checkout with changes: its commit does not say what was measured."


def _described(result: Result) -> dict[str, Any]:
    provenance = asdict(result.provenance)
    arguments = provenance.pop("arguments")
    named = {f"argument {name}": value for name, value in arguments.items()}
    return {**provenance, **named, **{f"setting {name}": value for name, value in result.settings.items()}}


def _said(value: Any) -> str:
    return text(value) if isinstance(value, bool) else "" if value is None else str(value)
