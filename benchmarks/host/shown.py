"""Host time in bars, each kind of tail and block unfused above fused; in words and in a small table."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..pictures import COLOURS, FAINT, style
from ..result import Result, Row, number, text
from .measure import DIRECTIONS, NETWORK, SIDES


def of_network(result: Result) -> list[Row]:
    """The rows that stand for all of ResNet-50."""
    return [row for row in result.rows if row["kind"] == NETWORK]


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    launches = "launches included" if result.settings["device"] == "cuda" else "the kernels' launches left out"
    return (
        "Host time of residual tails and blocks, forward and backward, unfused and fused, in microseconds a call;"
        f" measured on {result.provenance.device}, {launches}."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line for all of ResNet-50's tails, and of its blocks, in each precision."""
    header = ["ResNet-50, microseconds (measured)", "unfused", "fused", "ratio"]
    return header, [_line(row) for row in of_network(result)]


def _line(row: Row) -> list[str]:
    sides = [" + ".join(text(number(row[f"{side} {way}"])) for way in DIRECTIONS) for side in SIDES]
    return [f"{row['what']}s, {row['precision']}", *sides, text(number(row["ratio"]))]


_COLOURS = {
    ("unfused", "forward"): COLOURS["sky"],
    ("unfused", "backward"): COLOURS["blue"],
    ("fused", "forward"): COLOURS["orange"],
    ("fused", "backward"): COLOURS["red"],
}
_BAR = 0.36


def draw(result: Result) -> Figure:
    """Tails on the left, blocks on the right; the ratio is written at the fused bar's end."""
    rows = [row for row in result.rows if row["kind"] != NETWORK]
    panels = [[row for row in rows if (row["what"] == "tail") == tails] for tails in (True, False)]
    with style():
        figure = Figure(figsize=(11, 1.6 + 0.5 * max(map(len, panels))), dpi=120, layout="constrained")
        for axes, panel, title in zip(figure.subplots(1, 2), panels, ("tails", "blocks"), strict=True):
            _draw_panel(axes, panel, title)
        handles = [Patch(color=colour, label=" ".join(of)) for of, colour in _COLOURS.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=9)
        launches = "launches included" if result.settings["device"] == "cuda" else "launches of the kernels left out"
        figure.supxlabel(f"Measured on {result.provenance.device}, {launches}; medians", x=0.01, ha="left", fontsize=9)
    return figure


def _draw_panel(axes: Axes, rows: list[Row], title: str) -> None:
    for place, row in enumerate(rows):
        for offset, side in zip((-_BAR / 2, _BAR / 2), SIDES, strict=True):
            left = 0.0
            for way in DIRECTIONS:
                width = number(row[f"{side} {way}"]) or 0.0
                axes.barh(place + offset, width, _BAR * 0.94, left=left, color=_COLOURS[side, way])
                left += width
        axes.text(left + 4, place + _BAR / 2, f"{number(row['ratio']):.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.set_title(f"host time of {title}, µs a call", loc="left")


def _name(row: Row) -> str:
    what = "" if row["what"] == "tail" else f"{str(row['what']).removesuffix(' block')}: "
    return f"{what}{row['kind']}\n{row['precision']}"
