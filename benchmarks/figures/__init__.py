"""Draws the pictures of all results again, and writes the tables of the pages.

Of each result NAME.json of the folder, NAME.svg beside it. In README.md and
the pages of docs/ beside it, what is between the lines

    <!-- result: NAME -->
    <!-- end of result -->

becomes the result's table, its picture and where it comes from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import collection
from . import drawn, pages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    collection.add_arguments(parser)
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        default=Path(__file__).parents[2] / "README.md",
        help="default: README.md of the repository",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; the exit status is 1 if anything is stale")


def run(arguments: argparse.Namespace) -> int:
    """Writes pictures and pages; with ``--check``, the exit status is 1 where that would change one."""
    entries = collection.collect(arguments.results).entries
    texts = pages.rewritten(arguments.readme, arguments.results)
    stale_pictures = [entry for entry in entries if not drawn.is_current(entry)]
    stale_pages = {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}
    stale = [entry.picture for entry in stale_pictures] + list(stale_pages)
    if arguments.check:
        for path in stale:
            print(f"{path} is stale: run `make figures`")
        return 1 if stale else 0
    for entry in entries:
        drawn.write(entry)
    for path, text in stale_pages.items():
        path.write_text(text, encoding="utf-8")
    written = [entry.picture for entry in entries] + list(stale_pages)
    print(f"Written: {', '.join(map(str, written)) or 'nothing'}")
    return 0
