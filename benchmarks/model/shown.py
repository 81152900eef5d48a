"""What the model says of the kernels as they are, and how close it is to what was measured."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..launches import BACKWARD, FORWARD
from ..phases.columns import DIRECT, MOMENTS
from ..pictures import COLOURS, FAINT, style
from ..result import Result, Row, amount, text
from . import gpu_time

STAGES = ("measured", "then, modelled", "now, modelled")


def by_tail(result: Result) -> dict[str, list[Row]]:
    """The rows of each tail, of moments or of the only way."""
    tails: dict[str, list[Row]] = {}
    for row in result.rows:
        if row["way"] in (MOMENTS, DIRECT):
            tails.setdefault(str(row["tail"]), []).append(row)
    return tails


def milliseconds(rows: list[Row], stage: str, direction: str) -> float:
    """The time of a direction: its phases added up."""
    return sum(amount(row, stage) for row in rows if str(row["phase"]).startswith(direction))


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    return (
        f"Left: {len(by_tail(result))} tails, forward + backward, on {result.settings['gpu']}: PyTorch's operations and"
        " the kernels of commit 82e7ce2 as they were measured, the kernels as they are by the model. Right: modelled"
        f" against measured times of {len(result.rows)} phases of the kernels of commit 82e7ce2."
    )


def in_one_launch(rows: list[Row], direction: str) -> float:
    """The modelled time of a direction as it runs: its phases with barriers between them."""
    phases = [amount(row, STAGES[2]) for row in rows if str(row["phase"]).startswith(direction)]
    return gpu_time.launch_seconds([ms * 1e-3 for ms in phases], gpu_time.read()) * 1e3


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a tail: forward + backward, as measured, by the model then, and by the model now."""
    header = ["moments, forward + backward, ms", "measured then", "modelled then", "modelled now", "in one launch"]
    lines = []
    for tail, rows in by_tail(result).items():
        times = [[milliseconds(rows, stage, direction) for direction in (FORWARD, BACKWARD)] for stage in STAGES]
        times.append([in_one_launch(rows, direction) for direction in (FORWARD, BACKWARD)])
        lines.append([tail, *(" + ".join(map(text, both)) for both in times)])
    return header, lines


_PHASES = {"moments": "sky", "reduce": "orange", "finish": "pink", "apply": "blue"}


def draw(result: Result) -> Figure:
    """Two panels: bars a tail, and points on a diagonal."""
    with style():
        figure = Figure(figsize=(11, 6.4), dpi=120, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        _draw_bars(left, result)
        _draw_points(right, result)
    return figure


def _draw_points(axes: Axes, result: Result) -> None:
    ends = (0.008, 10)
    axes.fill_between(
        ends, [0.75 * x for x in ends], [1.25 * x for x in ends], color=FAINT, linewidth=0, label="± 25 %"
    )
    for phase, colour in _PHASES.items():
        rows = [row for row in result.rows if str(row["phase"]).endswith(phase)]
        x, y = ([amount(row, name) for row in rows] for name in ("measured", "then, modelled"))
        axes.plot(x, y, "o", markersize=4, color=COLOURS[colour], alpha=0.8, label=phase)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_xlabel("measured, ms")
    axes.set_ylabel("modelled, ms")
    axes.set_title("Model against measurement")
    axes.legend(fontsize=9)


def _draw_bars(axes: Axes, result: Result) -> None:
    tails = by_tail(result)
    eager = [result.details["eager"][tail] for tail in tails]
    then, now = ([_both(rows, stage) for rows in tails.values()] for stage in ("measured", "now, modelled"))
    series: tuple[tuple[list[float], dict[str, Any], str], ...] = (
        (eager, {"color": COLOURS["grey"]}, "PyTorch's operations: measured"),
        (then, {"color": COLOURS["sky"]}, "kernels as they were: measured"),
        (now, {"edgecolor": COLOURS["green"], "facecolor": "none", "hatch": "////"}, "kernels as they are: modelled"),
    )
    for row, (times, look, label) in enumerate(series):
        places = [place + 0.28 * (row - 1) for place in range(len(tails))]
        axes.barh(places, times, 0.26, label=label, **look)
        for place, time in zip(places, times, strict=True):
            axes.text(time, place, f" {time:.2f}", va="center", fontsize=7)
    axes.set_yticks(range(len(tails)), list(tails), fontsize=9)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("ms, forward + backward, by moments")
    axes.set_title(f"Tails on {result.settings['gpu']}, batch {result.settings['batch']}")
    axes.legend(fontsize=9, loc="lower right")


def _both(rows: list[Row], stage: str) -> float:
    return sum(milliseconds(rows, stage, direction) for direction in (FORWARD, BACKWARD))
