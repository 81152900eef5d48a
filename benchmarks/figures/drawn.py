"""A result's picture as a file that knows what it was drawn from.

Versions of matplotlib draw differently, so that the pictures themselves cannot tell whether they are up to date.
"""

from __future__ import annotations

from hashlib import sha256

from .. import pictures
from ..collection import Entry


def write(entry: Entry) -> None:
    """Draws the picture."""
    drawing = pictures.svg(entry.shown.draw(entry.result))
    entry.picture.write_text(f"{drawing.rstrip()}\n{_origin(entry)}\n", encoding="utf-8")


def is_current(entry: Entry) -> bool:
    """Whether the picture is there and was drawn from the file as it is."""
    return entry.picture.is_file() and entry.picture.read_text(encoding="utf-8").endswith(f"{_origin(entry)}\n")


def _origin(entry: Entry) -> str:
    return f"<!-- drawn from {entry.path.name}, sha256 {sha256(entry.path.read_bytes()).hexdigest()} -->"
