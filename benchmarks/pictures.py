"""Pictures that are at home on light and on dark pages.

An SVG is transparent, and its text and lines take their colour from a style sheet of its own, which follows the
reader's preference, also within an ``<img>``. Other formats are for light pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .result import Spread, Value, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
# Okabe and Ito's palette, which every kind of colour vision tells apart. All of it shows on white and on near-black.
COLOURS = {
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "red": "#D55E00",
    "pink": "#CC79A7",
    "grey": "#8A8F98",
}
# Colours of text, axes and whatever else must stand out from the page, and of what must not.
INK, FAINT = "#1B1F24", "#D9DDE2"
_NAMES = {INK: "ink", FAINT: "faint"}
_DARK = {INK: "#E6E9ED", FAINT: "#3A4049"}
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "grid.color": FAINT,
    # The same file from the same numbers.
    "svg.hashsalt": "fused_resnet",
}


@contextmanager
def style() -> Iterator[None]:
    """Everything that is drawn within looks like the other pictures."""
    import matplotlib as mpl  # where nothing is drawn, it need not be installed

    with mpl.rc_context(_STYLE):
        yield


def stacked(axes: Axes, place: float, parts: Iterable[tuple[str, float]], height: float) -> float:
    """A bar of parts, each in a colour, from left to right; where it ends."""
    begin = 0.0
    for colour, length in parts:
        axes.barh(place, length, height, left=begin, color=colour)
        begin += length
    return begin


def places(count: int, groups: int, width: float) -> list[list[float]]:
    """Where the bars of each of `count` series are: those of a group side by side, together as wide as `width`."""
    return [[group + ((i + 0.5) / count - 0.5) * width for group in range(groups)] for i in range(count)]


def quartiles(axes: Axes, value: Value, place: float, **look: Any) -> float:
    """A line from the lower to the upper quartile of a bar; where it, or the bar without one, ends."""
    if not isinstance(value, Spread):
        return number(value) or 0.0
    axes.plot([value.lower, value.upper], [place, place], **{"color": INK, "linewidth": 1.5, **look})
    return value.upper


def label_rows(axes: Axes, labels: Sequence[str], **look: Any) -> None:
    """Names the rows of a picture, which begin at the top."""
    axes.set_yticks(range(len(labels)), labels, **look)
    axes.set_ylim(max(1, len(labels)) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure that was drawn within `style`, in the format that the name ends in."""
    with style():
        if path.suffix == ".svg":
            path.write_text(svg(figure), encoding="utf-8")
        else:
            figure.savefig(path, facecolor="white")


def svg(figure: Figure) -> str:
    """The figure as an SVG document, with names for the colours that depend on the page."""
    written = StringIO()
    with style():
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    document = written.getvalue()
    for light, name in _NAMES.items():
        document = re.sub(rf"\b(fill|stroke): {light}", rf"\1: var(--{name})", document, flags=re.IGNORECASE)
    light, dark = (
        "".join(f"--{name}:{of[ink]};" for ink, name in _NAMES.items()) for of in ({INK: INK, FAINT: FAINT}, _DARK)
    )
    sheet = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return re.sub(r"(<svg [^>]*>)", rf"\1\n {sheet}", document, count=1)
