"""Writes one HTML page with the tables and pictures of all results.

The page needs nothing beside it: no other files, no scripts, no network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import collection
from . import demo, page
from .result import section


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
    demos = {path: demo.section(path) for path in found.others}
    sections = [*map(section, found.entries), *filter(None, demos.values())]
    not_shown = {path.name: why for path, why in found.others.items() if demos[path] is None}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(page.html(sections, not_shown), encoding="utf-8")
    print(f"Written: {arguments.output}, {len(sections)} results")
    for name, why in not_shown.items():
        print(f"- not shown: {name}: {why}")
    return 0
