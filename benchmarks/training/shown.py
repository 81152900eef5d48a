"""Throughput and peak memory as a picture, in words and in a small table."""

from __future__ import annotations

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..network_ways import COLOURS, EAGER, WAYS
from ..pictures import COLOURS as PALETTE
from ..pictures import INK, style
from ..result import Result, Row, number, text
from ..timing import Spread


def timed(result: Result) -> dict[tuple[str, int], dict[str, Row]]:
    """Rows by network and batch, then by way."""
    rows: dict[tuple[str, int], dict[str, Row]] = {}
    for row in result.rows:
        rows.setdefault((str(row["model"]), int(number(row["batch"]) or 0)), {})[str(row["way"])] = row
    return rows


def largest_batches(result: Result) -> dict[tuple[str, int], dict[str, Row]]:
    """Those of `timed` with each network's largest batch."""
    last = {model: (model, batch) for model, batch in sorted(timed(result))}
    return {key: rows for key, rows in timed(result).items() if key in last.values()}


def caption(result: Result) -> str:
    """For the picture: what is shown, and on what it was measured."""
    what = "Evaluation" if result.settings.get("mode") == "evaluation" else "Training steps"
    return (
        f"{what} of whole ResNets on synthetic images in each way: images a second with the quartiles, and peak"
        f" memory. Measured on {result.provenance.device}, {result.settings['dtype']}, with the"
        f" {result.provenance.backend} backend."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a network and way, with the largest batch that was timed."""
    header = ["network, batch", "way", "images/s (measured)", "time / eager (measured)", "peak, MB (measured)"]
    header.append(f"largest batch ({'computed' if result.settings['device'] == 'cpu' else 'measured'})")
    lines = []
    for (model, batch), rows in largest_batches(result).items():
        for way, row in rows.items():
            peak = number(row["peak"]) or 0.0
            cells = [text(row["images/s"]), "" if way == EAGER else text(row["time / eager"]), f"{peak:,.0f}"]
            cells.append(text(row.get("largest batch")))
            lines.append([f"{model}, {batch}", way, *cells])
    return header, lines


_HEIGHT = 0.8


def draw(result: Result) -> Figure:
    """Bars of each network and batch, a bar a way: images a second to the left, peak memory to the right."""
    groups = timed(result)
    bars = sum(map(len, groups.values()))
    with style():
        figure = Figure(figsize=(10, 1.5 + 0.3 * bars + 0.15 * len(groups)), dpi=120, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, groups, "images/s")
        _draw(right, groups, "peak")
        left.set_title("Images a second (more is better)")
        right.set_title("Peak memory, MB (less is better)")
        left.set_yticks(range(len(groups)), [f"{model}\nbatch {batch}" for model, batch in groups])
        left.set_ylim(len(groups) - 0.45, -0.55)
        handles, labels = _legend(left)
        figure.legend(handles, labels, loc="outside upper left", ncols=len(WAYS))
        p = result.provenance
        conditions = f"{p.device}, {result.settings['dtype']}, {p.backend} backend; lines: quartiles; synthetic images"
        figure.supxlabel(f"Measured: {conditions}", x=0.01, ha="left", fontsize=9)
    return figure


def _draw(axes: Axes, groups: dict[tuple[str, int], dict[str, Row]], column: str) -> None:
    for place, rows in enumerate(groups.values()):
        width = _HEIGHT / len(rows)
        for i, (way, row) in enumerate(rows.items()):
            y = place + (i - (len(rows) - 1) / 2) * width
            value = number(row[column]) or 0.0
            axes.barh(y, value, width * 0.92, color=PALETTE[COLOURS[way]], label=way)
            end = _draw_quartiles(axes, y, row[column]) or value
            axes.annotate(text(value), (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, 1.18 * max(axes.get_xlim()[1], 1e-9))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _draw_quartiles(axes: Axes, y: float, value: object) -> float | None:
    """Where they end."""
    if not isinstance(value, Spread):
        return None
    axes.plot([value.lower, value.upper], [y, y], color=INK, linewidth=1.5, solid_capstyle="butt")
    return value.upper


def _legend(axes: Axes) -> tuple[list[Artist], list[str]]:
    """Each way once, in the ways' order."""
    of = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    shown = [way for way in WAYS if way in of]
    return [of[way] for way in shown], shown
