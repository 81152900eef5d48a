"""Throughput and peak memory as a picture, in words and in a small table."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..networks import COLOURS, EAGER, WAYS
from ..pictures import COLOURS as PALETTE
from ..pictures import label_rows, places, quartiles, style
from ..result import Result, Row, amount, grouped, text


def _timed(result: Result) -> dict[str, dict[str, Row]]:
    """Rows by network and batch, then by way."""
    named: list[Row] = [{**row, "of": f"{row['model']}, {row['batch']}"} for row in result.rows]
    return grouped(named, "of", "way")


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
    for row in result.rows:
        if row["batch"] == max(amount(other, "batch") for other in result.rows if other["model"] == row["model"]):
            cells = [text(row["images/s"]), "" if row["way"] == EAGER else text(row["time / eager"])]
            cells += [f"{amount(row, 'peak'):,.0f}", text(row.get("largest batch"))]
            lines.append([f"{row['model']}, {row['batch']}", str(row["way"]), *cells])
    return header, lines


def draw(result: Result) -> Figure:
    """Bars of each network and batch, a bar a way: images a second to the left, peak memory to the right."""
    groups = _timed(result)
    bars = sum(map(len, groups.values()))
    with style():
        figure = Figure(figsize=(10, 1.5 + 0.3 * bars + 0.15 * len(groups)), dpi=120, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, groups, "images/s")
        _draw(right, groups, "peak")
        left.set_title("Images a second (more is better)")
        right.set_title("Peak memory, MB (less is better)")
        label_rows(left, [name.replace(", ", "\nbatch ") for name in groups])
        handles = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
        shown = [way for way in WAYS if way in handles]
        figure.legend([handles[way] for way in shown], shown, loc="outside upper left", ncols=len(WAYS))
        p = result.provenance
        conditions = f"{p.device}, {result.settings['dtype']}, {p.backend} backend; lines: quartiles; synthetic images"
        figure.supxlabel(f"Measured: {conditions}", x=0.01, ha="left", fontsize=9)
    return figure


def _draw(axes: Axes, groups: dict[str, dict[str, Row]], column: str) -> None:
    for place, rows in enumerate(groups.values()):
        for (way, row), (offset,) in zip(rows.items(), places(len(rows), 1, 0.8), strict=True):
            axes.barh(place + offset, amount(row, column), 0.74 / len(rows), color=PALETTE[COLOURS[way]], label=way)
            end = quartiles(axes, row[column], place + offset)
            label = text(amount(row, column))
            axes.annotate(label, (end, place + offset), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, 1.18 * max(axes.get_xlim()[1], 1e-9))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
