"""A comparison's ratios as dots."""

from __future__ import annotations

from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from .. import pictures
from ..pictures import COLOURS, FAINT, INK
from ..result import Result, Row, Value, number, text
from ..timing import Spread

_COLOURS = {"better": COLOURS["blue"], "worse": COLOURS["red"], "changed": COLOURS["pink"]}
_UNCHANGED = COLOURS["grey"]
_ACROSS = 3


def draw(result: Result) -> Figure:
    """A panel for each column in which anything differs, a dot for each row, a line for what the spreads allow."""
    panels = _panels(result)
    labels = list(dict.fromkeys(_label(result, row) for rows in panels.values() for row in rows))
    across = min(_ACROSS, max(1, len(panels)))
    down = max(1, ceil(len(panels) / across))
    with pictures.style():
        figure = Figure(figsize=(10, down * (1.6 + 0.26 * len(labels))), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
        for own, (name, rows) in zip(axes, panels.items(), strict=False):
            own.set_title(_heading(result.details["columns"][name]), fontsize=10, fontweight="normal")
            _draw_panel(own, {labels.index(_label(result, row)): row for row in rows})
        for unused in axes[len(panels) :]:
            unused.set_axis_off()
        _scale(axes[0], panels)
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set_ylim(max(1, len(labels)) - 0.5, -0.5)
        figure.suptitle(_title(panels), x=0.01, ha="left", fontsize=12)
        return figure


def _title(panels: dict[str, list[Row]]) -> str:
    if not panels:
        return "Nothing differs."
    return "B / A: blue is better, red is worse, hollow is the same or within the spread"


def _panels(result: Result) -> dict[str, list[Row]]:
    """By column: rows with a ratio, where at least one of them differs."""
    found = {
        name: [row for row in result.rows if row["compared"] == name and row["B / A"] is not None]
        for name in result.details["columns"]
    }
    return {name: rows for name, rows in found.items() if any(row["verdict"] != "same" for row in rows)}


def _label(result: Result, row: Row) -> str:
    return " ".join(text(row[name]) for name in result.keys if name != "compared")


def _draw_panel(axes: Axes, rows: dict[int, Row]) -> None:
    axes.axvline(1, color=INK, linewidth=1, zorder=1)
    for place, row in rows.items():
        colour = _COLOURS.get(str(row["verdict"]), _UNCHANGED)
        lower, upper = _allowed(row["A"], row["B"])
        axes.plot([lower, upper], [place] * 2, color=colour, linewidth=2, alpha=0.6)
        axes.plot(
            [number(row["B / A"]) or 1],
            [place],
            "o",
            color=colour,
            markersize=7,
            markerfacecolor=colour if colour != _UNCHANGED else "none",
        )
    axes.grid(axis="both", color=FAINT)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("B / A")


def _heading(name: str) -> str:
    """Such as "time [us] (measured, lower is better)", in lines that are short enough for a panel."""
    return name.replace(" (", "\n").replace(", ", "\n").rstrip(")")


def _scale(axes: Axes, panels: dict[str, list[Row]]) -> None:
    """Half as much is as far from 1 as twice as much, and all panels have one scale."""
    ends = [end for rows in panels.values() for row in rows for end in _allowed(row["A"], row["B"])]
    widest = 1.05 * max([1.05, *ends, *(1 / end for end in ends)])
    axes.set_xscale("log")
    axes.set_xlim(1 / widest, widest)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]) if widest < 3 else LogLocator(2, numticks=6))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _allowed(a: Value, b: Value) -> tuple[float, float]:
    """The least and the largest ratio of a value between B's quartiles to one between A's."""
    (a_lower, a_upper), (b_lower, b_upper) = _quartiles(a), _quartiles(b)
    return b_lower / a_upper, b_upper / a_lower


def _quartiles(value: Value) -> tuple[float, float]:
    if isinstance(value, Spread):
        # Zero has no place on a logarithmic scale.
        return max(value.lower, value.median / 100), value.upper
    only = number(value)
    assert only is not None
    return only, only
