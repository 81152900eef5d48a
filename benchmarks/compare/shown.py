"""A comparison's ratios as dots, in words and on a line a column."""

from __future__ import annotations

from math import ceil, log

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from .. import pictures
from ..pictures import COLOURS, FAINT, INK
from ..result import Result, Row, number, text
from .comparison import VERDICTS, quartiles

_COLOURS = {"better": COLOURS["blue"], "worse": COLOURS["red"], "changed": COLOURS["pink"]}
_UNCHANGED = COLOURS["grey"]
_ACROSS, _MOST_ROWS = 3, 40


def caption(result: Result) -> str:
    """What the picture shows."""
    return (
        f"Ratios of two runs of the benchmark {result.settings['benchmark']}, B / A, row by row: better, worse, or"
        " within the spread (quartile ranges overlap)."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """Each compared column's ratios on one line."""
    lines = [
        [of["heading"], "" if of["B / A"] is None else f"{of['B / A']:.3f}", *map(str, of["counts"].values())]
        for of in result.details["columns"].values()
    ]
    return ["compared", "B / A (geometric mean)", *VERDICTS], lines


def draw(result: Result) -> Figure:
    """A panel for each column in which anything differs, a dot for each row, a line for what the spreads allow."""
    panels = _panels(result)
    labels = _labels(panels)
    across = min(_ACROSS, max(1, len(panels)))
    down = max(1, ceil(len(panels) / across))
    with pictures.style():
        figure = Figure(figsize=(10, down * (1.6 + 0.26 * len(labels))), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
        for own, (name, rows) in zip(axes, panels.items(), strict=False):
            # In lines that are short enough for a panel.
            heading = result.details["columns"][name]["heading"].replace(" (", "\n").replace(", ", "\n").rstrip(")")
            own.set_title(heading, fontsize=10, fontweight="normal")
            _draw_panel(own, {labels.index(label): row for label, row in rows.items() if label in labels})
        for unused in axes[len(panels) :]:
            unused.set_axis_off()
        _scale(axes[0], panels)
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set_ylim(max(1, len(labels)) - 0.5, -0.5)
        rows_there = {label for rows in panels.values() for label in rows}
        some = f"\n{len(labels)} of {len(rows_there)} rows: those that differ most" * (len(labels) < len(rows_there))
        title = f"B / A: blue is better, red is worse, hollow is the same or within the spread{some}"
        figure.suptitle(title if panels else "Nothing differs.", x=0.01, ha="left", fontsize=12)
        return figure


def _panels(result: Result) -> dict[str, dict[str, Row]]:
    """By column: rows with a ratio, by their labels, where at least one of them differs."""
    found: dict[str, dict[str, Row]] = {str(name): {} for name in result.details["columns"]}
    for row in result.rows:
        if row["B / A"] is not None:
            found[str(row["compared"])][" ".join(text(row[name]) for name in result.details["keys"])] = row
    return {name: rows for name, rows in found.items() if any(row["verdict"] != "same" for row in rows.values())}


def _labels(panels: dict[str, dict[str, Row]]) -> list[str]:
    """Labels of the rows that are drawn, in their order."""
    distances: dict[str, float] = {}
    for rows in panels.values():
        for label, row in rows.items():
            distances[label] = max(distances.get(label, 0), abs(log(number(row["B / A"]) or 1)))
    farthest = sorted(distances, key=lambda label: -distances[label])[:_MOST_ROWS]
    return [label for label in distances if label in farthest]


def _draw_panel(axes: Axes, rows: dict[int, Row]) -> None:
    axes.axvline(1, color=INK, linewidth=1, zorder=1)
    for place, row in rows.items():
        colour = _COLOURS.get(str(row["verdict"]), _UNCHANGED)
        axes.plot(_allowed(row), [place] * 2, color=colour, linewidth=2, alpha=0.6)
        face = colour if colour != _UNCHANGED else "none"
        axes.plot([number(row["B / A"]) or 1], [place], "o", color=colour, markersize=7, markerfacecolor=face)
    axes.grid(axis="both", color=FAINT)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("B / A")


def _scale(axes: Axes, panels: dict[str, dict[str, Row]]) -> None:
    """Half as much is as far from 1 as twice as much, and all panels have one scale."""
    ends = [end for rows in panels.values() for row in rows.values() for end in _allowed(row)]
    widest = 1.05 * max([1.05, *ends, *(1 / end for end in ends)])
    axes.set_xscale("log")
    axes.set_xlim(1 / widest, widest)
    near = MaxNLocator(6, steps=[1, 2, 5, 10])
    axes.xaxis.set_major_locator(near if widest < 3 else LogLocator(10 if widest > 50 else 2, numticks=5))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _allowed(row: Row) -> tuple[float, float]:
    """The least and the largest ratio of a value between B's quartiles to one between A's."""
    a, b = quartiles(row["A"]), quartiles(row["B"])
    assert a is not None
    assert b is not None
    # Zero has no place on a logarithmic scale.
    least_a, least_b = (max(low, (number(row[side]) or 0.0) / 100) for side, (low, _) in (("A", a), ("B", b)))
    return least_b / a[1], b[1] / least_a
