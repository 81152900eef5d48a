"""Host time in bars, each kind of tail and block unfused above fused; in words and in a small table."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..pictures import COLOURS, FAINT, label_rows, places, stacked, style
from ..result import Result, Row, amount, number, text
from .cases import SIDES
from .measure import DIRECTIONS, NETWORK

_COLOURS = {
    ("unfused", "forward"): COLOURS["sky"],
    ("unfused", "backward"): COLOURS["blue"],
    ("fused", "forward"): COLOURS["orange"],
    ("fused", "backward"): COLOURS["red"],
}


def _launches(result: Result) -> str:
    return "launches included" if result.settings["device"] == "cuda" else "the kernels' launches left out"


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    return (
        "Host time of residual tails and blocks, forward and backward, unfused and fused, in microseconds a call;"
        f" measured on {result.provenance.device}, {_launches(result)}."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line for all of ResNet-50's tails, and of its blocks, in each precision."""
    lines = []
    for row in (row for row in result.rows if row["kind"] == NETWORK):
        sides = [" + ".join(text(number(row[f"{side} {way}"])) for way in DIRECTIONS) for side in SIDES]
        lines.append([f"{row['what']}s, {row['precision']}", *sides, text(number(row["ratio"]))])
    return ["ResNet-50, microseconds (measured)", "unfused", "fused", "ratio"], lines


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
        measured = f"Measured on {result.provenance.device}, {_launches(result)}; medians"
        figure.supxlabel(measured, x=0.01, ha="left", fontsize=9)
    return figure


def _draw_panel(axes: Axes, rows: list[Row], title: str) -> None:
    for side, side_places in zip(SIDES, places(len(SIDES), len(rows), 0.72), strict=True):
        for place, row in zip(side_places, rows, strict=True):
            parts = [(_COLOURS[side, way], amount(row, f"{side} {way}")) for way in DIRECTIONS]
            end = stacked(axes, place, parts, 0.34)
            if side == "fused":
                axes.text(end + 4, place, f"{number(row['ratio']):.2f}", va="center", fontsize=9)
    whats = ["" if r["what"] == "tail" else f"{str(r['what']).removesuffix(' block')}: " for r in rows]
    labels = [f"{what}{row['kind']}\n{row['precision']}" for what, row in zip(whats, rows, strict=True)]
    label_rows(axes, labels, fontsize=9)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.set_title(f"host time of {title}, µs a call", loc="left")
