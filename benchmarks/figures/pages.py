"""The blocks of Markdown pages that show a result."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..collection import Entry, entry
from ..errors import UserError
from ..result import provenance_line

_BEGIN, _END = "<!-- result: NAME -->", "<!-- end of result -->"
_MARK = re.compile(r"^<!-- (?:result: (?P<name>\S+)|end of result) -->$", re.MULTILINE)


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
        pieces += [text[end : begin.end()], f"\n{_block(entry(path), page)}\n"]
        end = closing.start()
    return "".join([*pieces, text[end:]])


def _block(shown: Entry, page: Path) -> str:
    alternative = re.sub(r"([\[\]])", r"\\\1", shown.shown.caption(shown.result).replace("\n", " "))
    return "\n\n".join(
        [
            _table(*shown.shown.headline(shown.result)),
            f"![{alternative}]({_link(shown.picture, page)})",
            f"{provenance_line(shown.result)} ([all numbers]({_link(shown.path, page)}))",
        ]
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    """The first column to the left, the others to the right, as in a terminal."""
    lines = [_line(header), "|".join(["", "---", *["---:"] * (len(header) - 1), ""]), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target.resolve(), page.resolve().parent)).as_posix()
