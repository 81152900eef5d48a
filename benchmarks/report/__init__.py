"""Writes one HTML page with the tables and pictures of all results.

The page needs nothing beside it: no other files, no scripts, no network.
"""

from __future__ import annotations

import argparse
import sys
from base64 import b64encode
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from .. import collection, pictures
from ..result import Column, Result, provenance_line, text

# These name files that the reader does not have.
_ARGUMENTS_LEFT_OUT = ("json", "plot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    collection.add_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path(__file__).parents[2] / "build" / "report.html",
        help="default: build/report.html in the repository",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the page."""
    found = collection.collect(arguments.results)
    not_shown = {path.name: why for path, why in found.others.items()}
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    html = page.get_template("page.html").render(
        results=[_shown(entry) for entry in found.entries], not_shown=not_shown
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(html, encoding="utf-8")
    print(f"Written: {arguments.output}, {len(found.entries)} results")
    for name, why in not_shown.items():
        print(f"- not shown: {name}: {why}")
    return 0


def _shown(entry: collection.Entry) -> dict[str, Any]:
    """What the page's template needs to know of a result."""
    result = entry.result
    header, rows = entry.shown.headline(result)
    columns = sorted(result.columns, key=lambda column: column.origin != "key")
    return {
        "name": entry.name,
        "lead": (sys.modules[f"benchmarks.{result.benchmark}"].__doc__ or "").strip().partition("\n")[0],
        "quick": result.provenance.arguments.get("quick"),
        "picture": b64encode(pictures.svg(entry.shown.draw(result)).encode()).decode(),
        "caption": entry.shown.caption(result),
        "header": header,
        "rows": rows,
        "all_header": [_heading(column) for column in columns],
        "all_rows": [[text(row.get(column.name)) for column in columns] for row in result.rows],
        "keys": len(result.keys),
        "notes": result.notes,
        "line": provenance_line(result),
        "origin": {name: what for name, what in _origin(result).items() if what},
    }


def _heading(column: Column) -> str:
    return column.heading if column.origin == "key" else f"{column.heading} ({column.origin})"


def _origin(result: Result) -> dict[str, str]:
    """Names and texts of everything that is known."""
    provenance = asdict(result.provenance)
    arguments = {name: v for name, v in provenance.pop("arguments").items() if name not in _ARGUMENTS_LEFT_OUT}
    origins = ("measured", "counted", "modelled")
    return {
        **{origin: ", ".join(c.name for c in result.columns if c.origin == origin) for origin in origins},
        **{name: _said(value) for name, value in provenance.items()},
        "arguments": _listed(arguments),
        "settings": _listed(result.settings),
    }


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_said(value)}" for name, value in values.items() if value is not None)


def _said(value: Any) -> str:
    return text(value) if isinstance(value, bool) else "none" if value is None else str(value)
