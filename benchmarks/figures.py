"""Draws the pictures of all results again, and writes the tables of the pages.

Of each result NAME.json of the folder, NAME.svg beside it. In README.md and
the pages of docs/ beside it, what is between the lines

    <!-- result: NAME -->
    <!-- end of result -->

becomes the result's table, its picture and where it comes from.
"""

from __future__ import annotations

import argparse
import os
import re
from hashlib import sha256
from pathlib import Path

from . import collection, pictures
from .collection import Entry
from .errors import UserError
from .result import provenance_line

_BEGIN, _END = "<!-- result: NAME -->", "<!-- end of result -->"
_MARK = re.compile(r"^<!-- (?:result: (?P<name>\S+)|end of result) -->$", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    collection.add_arguments(parser)
    readme = Path(__file__).parents[1] / "README.md"
    what = "default: README.md of the repository"
    parser.add_argument("--readme", type=Path, metavar="FILE", default=readme, help=what)
    parser.add_argument("--check", action="store_true", help="write nothing; the exit status is 1 if anything is stale")


def run(arguments: argparse.Namespace) -> int:
    """Writes pictures and pages; with ``--check``, the exit status is 1 where that would change one."""
    entries = collection.collect(arguments.results).entries
    texts = rewritten(arguments.readme, arguments.results)
    stale_pages = {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}
    if arguments.check:
        stale = [*(entry.picture for entry in entries if not _is_current(entry)), *stale_pages]
        for path in stale:
            print(f"{path} is stale: run `make figures`")
        return 1 if stale else 0
    for entry in entries:
        drawing = pictures.svg(entry.shown.draw(entry.result))
        entry.picture.write_text(f"{drawing.rstrip()}\n{_origin(entry)}\n", encoding="utf-8")
    for path, text in stale_pages.items():
        path.write_text(text, encoding="utf-8")
    written = [*(entry.picture for entry in entries), *stale_pages]
    print(f"Written: {', '.join(map(str, written)) or 'nothing'}")
    return 0


def _origin(entry: Entry) -> str:
    """What a picture was drawn from: versions of matplotlib draw differently, so that it cannot tell itself."""
    return f"<!-- drawn from {entry.path.name}, sha256 {sha256(entry.path.read_bytes()).hexdigest()} -->"


def _is_current(entry: Entry) -> bool:
    return entry.picture.is_file() and entry.picture.read_text(encoding="utf-8").endswith(f"{_origin(entry)}\n")


def rewritten(readme: Path, results: Path) -> dict[Path, str]:
    """The text, with blocks of the results as they are now, of a page and of those in docs/ beside it.

    Raises:
        UserError: there is no such page; a block has no end or no begin, or names what is no result.
    """
    if not readme.is_file():
        raise UserError(f"{readme}: no such file, expected a Markdown page")
    return {page: _rewritten(page, results) for page in [readme, *sorted((readme.parent / "docs").rglob("*.md"))]}


def _rewritten(page: Path, results: Path) -> str:
    text = page.read_text(encoding="utf-8")
    pieces, end = [], 0
    marks = list(_MARK.finditer(text))
    for begin, closing in zip(marks[::2], [*marks[1::2], None], strict=False):
        if not begin["name"] or closing is None or closing["name"]:
            line = text.count("\n", 0, begin.start()) + 1
            raise UserError(f"{page}:{line}: found {begin[0]} alone, expected {_BEGIN} and then {_END}")
        path = results / f"{begin['name']}.json"
        if not path.is_file():
            raise UserError(f"{page}: names the result {begin['name']!r}, but there is no {path}")
        pieces += [text[end : begin.end()], f"\n{_block(collection.entry(path), page)}\n"]
        end = closing.start()
    return "".join([*pieces, text[end:]])


def _block(entry: Entry, page: Path) -> str:
    header, rows = entry.shown.headline(entry.result)
    ruled = [_line(header), "|".join(["", "---", *["---:"] * (len(header) - 1), ""]), *map(_line, rows)]
    alternative = re.sub(r"([\[\]])", r"\\\1", entry.shown.caption(entry.result).replace("\n", " "))
    picture = f"![{alternative}]({_link(entry.picture, page)})"
    origin = f"{provenance_line(entry.result)} ([all numbers]({_link(entry.path, page)}))"
    return "\n\n".join(["\n".join(ruled), picture, origin])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target.resolve(), page.resolve().parent)).as_posix()
