"""What a run found out, in a table that fits one screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..table import table
from .record import Record

_TEXT_LENGTH = 100


def story(records: Sequence[Record], chosen: Sequence[str]) -> str:
    """Each part with its result, then the times of networks and tails."""
    by_part = {record.part: record for record in records}
    sections = [_parts(records, chosen)]
    for part, section in (("training", _networks), ("evaluation", _networks), ("phases", _tails)):
        if part in by_part and (lines := section(by_part[part].items)):
            sections.append(lines)
    return "\n\n".join(["", *sections, ""])


def _parts(records: Sequence[Record], chosen: Sequence[str]) -> str:
    rows = [(r.part, "passed" if r.passed else "FAILED", f"{r.seconds:.0f} s") for r in records]
    rows += [(name, "not run", "") for name in chosen[len(records) :]]
    results = ["result", "", *map(_result, records), *["the build failed"] * (len(chosen) - len(records))]
    lines = table(("part", "", "time"), rows).splitlines()
    # The last column is text, which reads badly aligned to the right.
    width = max(map(len, lines))
    return "\n".join(f"{line:<{width}}  {text}".rstrip() for line, text in zip(lines, results, strict=True))


def _result(record: Record) -> str:
    """One line on what was found."""
    first = record.problems[0].strip().splitlines()[-1] if record.problems else ""
    return "; ".join(part[:_TEXT_LENGTH] for part in (record.headline, first) if part)


def _networks(items: Iterable[dict[str, Any]]) -> str:
    header = ("network, batch", "way", "live [ms]", "host", "graph", "device", "longest kernel")
    rows = [
        (
            f"{item['model']}, {item['batch']}",
            item["way"],
            *(_number(item[name]) for name in ("live_ms", "host_ms", "graph_ms", "device_ms")),
            _longest(item["longest"]),
        )
        for item in items
        if "live_ms" in item
    ]
    return table(header, rows) if rows else ""


def _longest(kernels: Sequence[dict[str, Any]]) -> str:
    return f"{kernels[0]['kernel'][:40]} {_number(kernels[0]['ms'])}" if kernels else ""


def _tails(items: Sequence[dict[str, Any]]) -> str:
    """Milliseconds of forward and backward together."""
    tails = [item for item in items if "tail" in item]
    ways = list(dict.fromkeys(name for item in tails for name in item if name != "tail"))
    rows = [(item["tail"], *(_number(item.get(way)) for way in ways)) for item in tails]
    return table(("forward + backward [ms]", *ways), rows) if rows else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
