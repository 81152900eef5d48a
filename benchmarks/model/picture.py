"""How close the model is to what was measured, and what it says of the kernels as they are."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..phases.columns import BACKWARD, FORWARD
from ..pictures import COLOURS, FAINT, INK, style
from ..result import Result, Row, number
from .summary import by_tail, milliseconds

_PHASES = {"moments": "sky", "reduce": "orange", "finish": "pink", "apply": "blue"}


def draw(result: Result) -> Figure:
    """Two panels: points on a diagonal, and bars a tail."""
    with style():
        figure = Figure(figsize=(11, 5.6), dpi=120, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        _draw_points(left, result)
        _draw_bars(right, result)
    return figure


def _draw_points(axes: Axes, result: Result) -> None:
    ends = (0.008, 10)
    axes.fill_between(
        ends, [0.75 * x for x in ends], [1.25 * x for x in ends], color=FAINT, linewidth=0, label="± 25 %"
    )
    for phase, colour in _PHASES.items():
        rows = [row for row in result.rows if str(row["phase"]).endswith(phase)]
        x, y = ([number(row[name]) or 0.0 for row in rows] for name in ("measured", "then, modelled"))
        axes.plot(x, y, "o", markersize=4, color=COLOURS[colour], alpha=0.8, label=phase)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_xlabel("measured, ms")
    axes.set_ylabel("modelled, ms")
    axes.set_title("The model, on kernels that were measured")
    axes.legend(fontsize=9)


def _draw_bars(axes: Axes, result: Result) -> None:
    tails = by_tail(result)
    for place, rows in enumerate(tails.values()):
        for stage, offset, colour in (("then, modelled", -0.2, "grey"), ("now, modelled", 0.2, "green")):
            total = _both(rows, stage)
            axes.barh(place + offset, total, 0.36, color=COLOURS[colour])
            axes.text(total, place + offset, f" {total:.2f}", va="center", fontsize=8)
        axes.plot(_both(rows, "measured"), place - 0.2, "o", markersize=4, color=INK)
    axes.set_yticks(range(len(tails)), list(tails), fontsize=9)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("ms, forward + backward, by moments; dots: measured")
    axes.set_title("Modelled then (grey) and now (green)")


def _both(rows: list[Row], stage: str) -> float:
    return sum(milliseconds(rows, stage, direction) for direction in (FORWARD, BACKWARD))
