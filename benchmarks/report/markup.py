"""Pieces of HTML; texts are escaped here, and what is called `content` is HTML already."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape


def table(header: Sequence[str], rows: Iterable[Sequence[str]], label: str, names: int = 1) -> str:
    """In a box of its own, which scrolls sideways; the first `names` columns name the row, the others are values."""
    head = "".join(f'<th scope="col"{_aligned(i, names)}>{escape(name)}</th>' for i, name in enumerate(header))
    body = "\n".join(f"<tr>{''.join(_cell(i, text, names) for i, text in enumerate(row))}</tr>" for row in rows)
    return _scrolling(f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>", label)


def _cell(i: int, text: str, names: int) -> str:
    return f'<th scope="row">{escape(text)}</th>' if i < names else f'<td class="value">{escape(text)}</td>'


def _aligned(i: int, names: int) -> str:
    return "" if i < names else ' class="value"'


def figure(image: bytes, kind: str, caption: str, *, opaque: bool = False) -> str:
    """A picture of a MIME type and what it shows; an `opaque` one brings its own light background."""
    source = f"data:{kind};base64,{b64encode(image).decode()}"
    shown = f'<img alt="{escape(caption)}" src="{source}"{" class=opaque" if opaque else ""}>'
    return f"<figure>\n{_scrolling(shown, 'Picture')}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def preformatted(text: str, label: str) -> str:
    """Text whose lines and columns stay."""
    return _scrolling(f"<pre>{escape(text)}</pre>", label)


def details(summary: str, content: str) -> str:
    """What is shown when it is asked for."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{content}\n</details>"


def items(texts: Iterable[str]) -> str:
    """A list."""
    return f"<ul>\n{''.join(f'<li>{escape(text)}</li>{chr(10)}' for text in texts)}</ul>"


def terms(texts: Mapping[str, str]) -> str:
    """A list of names and what they are."""
    return f"<dl>\n{''.join(f'<dt>{escape(a)}</dt><dd>{escape(b)}</dd>{chr(10)}' for a, b in texts.items())}</dl>"


def _scrolling(content: str, label: str) -> str:
    # It takes the focus, so that the keyboard scrolls it, too.
    return f'<div class="scrolling" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'
