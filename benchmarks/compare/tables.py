"""A comparison as text, and as a result of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from ..result import Column, Result, Row, Value, provenance_line, text
from ..table import table
from .comparison import UNCHANGED, VERDICTS, Comparison, Key, Pair, geometric_mean, needed, ratio_text
from .origins import differences, warnings

_NAMED_ROWS = 3


def report(comparison: Comparison, *, only_changed: bool) -> str:
    """What differs around the numbers, then column by column, then what was not compared."""
    a, b = comparison.a, comparison.b
    differ = [(name, *texts) for name, texts in differences(a, b).items()]
    parts = [
        f"A: {provenance_line(a)}\nB: {provenance_line(b)}",
        table(("differs", "A", "B"), differ) if differ else "Machine, versions, commit and settings are the same.",
        "\n".join(f"- {warning}" for warning in warnings(a, b)),
        *(_column(comparison, column, only_changed) for column in comparison.columns),
        "\n".join(f"- {note}" for note in _notes(comparison)),
    ]
    return "\n\n".join(filter(None, parts))


def _column(comparison: Comparison, column: Column, only_changed: bool) -> str:
    pairs = comparison.column(column)
    only_changed = only_changed or column.origin == "counted"
    shown = [pair for pair in pairs if not (only_changed and pair.verdict in UNCHANGED)]
    heading = f"{_name(column)}: {_summary(pairs)}"
    if not shown:
        return heading
    keys = needed(comparison.a.keys, comparison.a.rows)
    places = [comparison.a.keys.index(name) for name in keys]
    cells = [[*(text(pair.key[place]) for place in places), *_cells(pair)] for pair in shown]
    return f"{heading}\n\n{table([*keys, 'A', 'B', 'B / A', 'verdict'], cells)}"


def _cells(pair: Pair) -> list[str]:
    return [text(pair.a), text(pair.b), ratio_text(pair.ratio), pair.verdict]


def _summary(pairs: list[Pair]) -> str:
    """Such as "B / A 0.912 (geometric mean), 5 better, 1 same"."""
    mean, counts = geometric_mean(pairs), Counter(pair.verdict for pair in pairs)
    said = [] if mean is None else [f"B / A {ratio_text(mean)} (geometric mean)"]
    said += [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    if any(pair.is_guess for pair in pairs):
        said.append("without a spread, so that a difference need not be a change")
    return ", ".join(said) or "no values"


def _name(column: Column) -> str:
    """With what a reader must know of its values."""
    direction = f", {column.better} is better" if column.better else ""
    return f"{column.heading} ({column.origin}{direction})"


def _notes(comparison: Comparison) -> list[str]:
    alone = {"A": comparison.only_a, "B": comparison.only_b}
    return [
        *(f"Only {side} has {_rows(keys)}." for side, keys in alone.items() if keys),
        *(f"Not compared: {name} ({why})." for name, why in comparison.left_out.items()),
    ]


def _rows(keys: list[Key]) -> str:
    named = "; ".join(" ".join(map(text, key)) for key in keys[:_NAMED_ROWS])
    if len(keys) == 1:
        return f"the row {named}"
    more = len(keys) - _NAMED_ROWS
    return f"{len(keys)} rows: {named}{f'; and {more} more' if more > 0 else ''}"


def result_of(comparison: Comparison) -> Result:
    """A row for each pair of values, of B's origin."""
    a, b = comparison.a, comparison.b
    keys = [Column(name, "key") for name in [*a.keys, "compared"]]
    differ = [
        f"{name}: {one or 'none'} in A, {other or 'none'} in B." for name, (one, other) in differences(a, b).items()
    ]
    return Result(
        "compare",
        b.provenance,
        {"benchmark": b.benchmark},
        [*keys, *(Column(name, "measured") for name in ("A", "B", "B / A", "verdict"))],
        [_row(a.keys, pair) for pair in comparison.pairs],
        [*warnings(a, b), *differ, *_notes(comparison)],
        {
            "A": asdict(a.provenance),
            "columns": {column.heading: _name(column) for column in comparison.columns},
            "summary": {column.heading: _counts(comparison.column(column)) for column in comparison.columns},
        },
    )


def _row(keys: list[str], pair: Pair) -> Row:
    own: dict[str, Value] = dict(zip(keys, pair.key, strict=True))
    return {
        **own,
        "compared": pair.column.heading,
        "A": pair.a,
        "B": pair.b,
        "B / A": pair.ratio,
        "verdict": pair.verdict,
    }


def _counts(pairs: list[Pair]) -> dict[str, float | int | None]:
    counts = Counter(pair.verdict for pair in pairs)
    return {"B / A": geometric_mean(pairs), **{verdict: counts[verdict] for verdict in VERDICTS}}
