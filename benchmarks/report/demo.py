"""The demo's results, which have a form and a picture of their own, as a section of the page."""

from __future__ import annotations

import json
from pathlib import Path

from ..demo.results import Results
from ..demo.summary import summary
from ..json_file import decoded
from . import markup
from .page import Section
from .result import warning


def section(path: Path) -> Section | None:
    """Picture and tables; None where the file is not the demo's or lies without its picture."""
    picture = path.with_suffix(".png")
    try:
        results = decoded(Results, json.loads(path.read_text(encoding="utf-8")))
        image = picture.read_bytes()
    except (AttributeError, KeyError, TypeError, ValueError, FileNotFoundError):
        return None
    tables = markup.preformatted(summary(results), f"{path.stem}: all tables")
    content = [
        warning(results.provenance),
        markup.figure(image, "image/png", _caption(results), opaque=True),
        markup.details("All tables, and where they come from", tables),
    ]
    return Section(path.stem, "\n".join(filter(None, content)))


def _caption(results: Results) -> str:
    return (
        f"Saved activations (counted) and time (measured) of each block of {results.blocks_of}, unfused and fused;"
        f" how {results.learning.network} learns both ways; ratios of the whole networks;"
        f" on {results.provenance.device}."
    )
