"""A result as a section of the page."""

from __future__ import annotations

from dataclasses import asdict
from html import escape
from typing import Any

from .. import pictures
from ..collection import Entry
from ..provenance import Provenance
from ..result import Column, Result, provenance_line, text
from . import markup
from .page import Section

# Of files that the reader does not have.
_ARGUMENTS_LEFT_OUT = ("json", "plot")


def section(entry: Entry) -> Section:
    """Picture, tables, notes and where it all comes from."""
    result, benchmark = entry.result, entry.benchmark
    drawing = pictures.svg(benchmark.draw(result)).encode()
    header, rows = benchmark.headline(result)
    parts = [
        _lead(benchmark.__doc__),
        warning(result.provenance),
        markup.figure(drawing, "image/svg+xml", benchmark.caption(result)),
        markup.table(header, rows, f"{entry.name}: main numbers"),
        markup.details(f"All {len(result.rows)} rows", _all_rows(entry)),
        markup.items(result.notes) if result.notes else "",
        f'<p class="origin">{escape(provenance_line(result))}</p>',
        markup.details("Where these numbers come from", markup.terms(_origin(result))),
    ]
    return Section(entry.name, "\n".join(filter(None, parts)))


def _lead(doc: str | None) -> str:
    return f'<p class="lead">{escape(doc.strip().splitlines()[0])}</p>' if doc else ""


def warning(provenance: Provenance) -> str:
    """What a reader must know ahead of all numbers; empty where there is nothing."""
    quick = provenance.arguments.get("quick")
    return '<p class="warning">A smoke run: its numbers say nothing of real sizes.</p>' if quick else ""


def _all_rows(entry: Entry) -> str:
    keys = [column for column in entry.result.columns if column.origin == "key"]
    columns = [*keys, *(column for column in entry.result.columns if column.origin != "key")]
    cells = [[text(row.get(column.name)) for column in columns] for row in entry.result.rows]
    return markup.table([_heading(c) for c in columns], cells, f"{entry.name}: all rows", names=len(keys))


def _heading(column: Column) -> str:
    return column.heading if column.origin == "key" else f"{column.heading} ({column.origin})"


def _origin(result: Result) -> dict[str, str]:
    """Names and texts of everything that is known."""
    named = {
        "measured": ", ".join(c.name for c in result.columns if c.origin == "measured"),
        "counted": ", ".join(c.name for c in result.columns if c.origin == "counted"),
    }
    provenance = asdict(result.provenance)
    arguments = {name: v for name, v in provenance.pop("arguments").items() if name not in _ARGUMENTS_LEFT_OUT}
    named |= {name: _said(value) for name, value in provenance.items()}
    named["arguments"] = _listed(arguments)
    named["settings"] = _listed(result.settings)
    return {name: what for name, what in named.items() if what}


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_said(value)}" for name, value in values.items() if value is not None)


def _said(value: Any) -> str:
    return text(value) if isinstance(value, bool) else "none" if value is None else str(value)
