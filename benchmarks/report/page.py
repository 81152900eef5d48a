"""The page around the sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from . import markup

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """One result: its heading, unique on the page, and what stands below, as HTML."""

    title: str
    content: str

    @property
    def anchor(self) -> str:
        """What links to it."""
        return f"result-{self.title}"

    @property
    def html(self) -> str:
        """All of it."""
        return (
            f'<section aria-labelledby="{escape(self.anchor)}">\n'
            f'<h2 id="{escape(self.anchor)}">{escape(self.title)}</h2>\n{self.content}\n</section>'
        )


def html(sections: Sequence[Section], not_shown: Mapping[str, str]) -> str:
    """The document; of files that are `not_shown`, it says why."""
    links = "".join(f'<li><a href="#{escape(s.anchor)}">{escape(s.title)}</a></li>\n' for s in sections)
    return Template((_FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        style=(_FOLDER / "page.css").read_text(encoding="utf-8").strip(),
        links=links,
        sections="\n".join(section.html for section in sections) or "<p>There are no results.</p>",
        rest=_rest(not_shown),
    )


def _rest(not_shown: Mapping[str, str]) -> str:
    if not not_shown:
        return ""
    return f"<h2>Not shown</h2>\n{markup.items(f'{name}: {why}' for name, why in not_shown.items())}"
