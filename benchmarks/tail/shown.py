"""The roofline, every tail at the operations a byte that it needs; in words and in a few lines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..pictures import COLOURS, FAINT, INK, style
from ..result import Result, Row, amount, grouped, number
from .work import Ceilings, Work

# The small table gives the fused tail's time as a share of these ways' times.
_RIVALS = ("eager", "compile", "compile-max-autotune", "cudnn-fused")
# Colour and marker; ours are filled and in front.
_LOOKS = {
    "fused": ("red", "o"),
    "eager": ("sky", "s"),
    "eager-contiguous": ("grey", "D"),
    "compile": ("green", "^"),
    "compile-max-autotune": ("blue", "v"),
    "cudnn-fused": ("pink", "P"),
    "moments": ("red", "$m$"),
    "library": ("red", "$c$"),
}
_TITLES = {
    "training": "Training, forward",
    "training+backward": "Training, forward + backward",
    "eval": "Evaluation, forward",
    "eval+backward": "Evaluation, forward + backward",
}
# Tails nearer to one another, in powers of ten, have one label.
_NEAR = 0.16


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    settings = result.settings
    return (
        f"Roofline of {len({row['tail'] for row in result.rows})} residual tails of ResNets, each computed fused and in"
        " PyTorch's other ways: achieved operations a second against the operations a byte that the tail needs."
        f" Measured on {result.provenance.device} ({settings['dtype']}, batches of {settings['batch']}, fused by the"
        f" {result.provenance.backend} backend)."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """Fused against the others, a line a mode: the median over all tails, the quickest and the slowest tail."""
    rivals = [way for way in _RIVALS if any(row["way"] == way for row in result.rows)]
    header = ["mode", "tails", *(f"fused time / {way} (measured)" for way in rivals)]
    header += ["fused, of the roofline (measured)", "eager (measured)", "fused bytes / eager (counted)"]
    lines = []
    for mode in _modes(result):
        tails = list(grouped([row for row in result.rows if row["mode"] == mode], "tail", "way").values())
        cells = [_ratios(tails, "time", way) for way in rivals]
        for way in ("fused", "eager"):
            shares = (number(ways.get(way, {}).get("roofline")) for ways in tails)
            cells.append(_spread([share for share in shares if share is not None], "{:.0%}".format))
        lines.append([mode, str(len(tails)), *cells, _ratios(tails, "bytes", "eager")])
    return header, lines


def _modes(result: Result) -> list[str]:
    return [mode for mode in _TITLES if any(row["mode"] == mode for row in result.rows)]


def _ratios(tails: list[dict[str, Row]], column: str, rival: str) -> str:
    both = [[number(ways.get(way, {}).get(column)) for way in ("fused", rival)] for ways in tails]
    ratios = [ours / theirs for ours, theirs in both if ours is not None and theirs]
    some = f", of {len(ratios)}" if 0 < len(ratios) < len(tails) else ""
    return _spread(ratios, "{:.2f}".format) + some


def _spread(values: list[float], shown: Callable[[float], str]) -> str:
    if not values:
        return ""
    median, lowest, highest = map(shown, (statistics.median(values), min(values), max(values)))
    return median if len(values) == 1 else f"{median} ({lowest} to {highest})"


def draw(result: Result) -> Figure:
    """All tails and ways of the result."""
    modes = _modes(result)
    columns = min(2, max(1, len(modes)))
    lines = max(1, math.ceil(len(modes) / columns))
    with style():
        figure = Figure(figsize=(10, 1.3 + 4.1 * lines), dpi=120, layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
        for axes, mode in zip(panels, modes, strict=False):
            _draw_panel(axes, result, mode)
        for axes in figure.axes[::columns]:
            axes.set_ylabel("achieved [TFLOP/s]")
        # Room for the labels above the roof.
        figure.axes[0].set_ylim(top=result.details["ceilings"]["operations_per_s"] / 1e12 * 12)
        _finish(figure, result)
    return figure


def _intensity(row: Row) -> float:
    return Work(int(amount(row, "needed bytes")), int(amount(row, "needed operations"))).intensity


def _draw_panel(axes: Axes, result: Result, mode: str) -> None:
    rows = [row for row in result.rows if row["mode"] == mode]
    _draw_roof(axes, Ceilings(**result.details["ceilings"]), rows)
    for ways in grouped(rows, "tail", "way").values():
        heights = [amount(row, "computed") for row in ways.values()]
        place = _intensity(next(iter(ways.values())))
        axes.plot([place] * 2, [min(heights), max(heights)], color=FAINT, linewidth=1, zorder=1)
    for way in reversed(_LOOKS):
        own = [row for row in rows if row["way"] == way]
        colour, marker = _LOOKS[way]
        points = [_intensity(row) for row in own], [amount(row, "computed") for row in own]
        above = 3 if way == "fused" else 2
        axes.plot(*points, marker=marker, color=COLOURS[colour], markersize=5, alpha=0.85, linestyle="", zorder=above)
    axes.set_title(_TITLES[mode])


def _draw_roof(axes: Axes, ceilings: Ceilings, rows: list[Row]) -> None:
    places = {str(row["tail"]): _intensity(row) for row in rows}
    left, right = min(places.values()) / 1.6, max(*places.values(), ceilings.ridge) * 1.6
    corners = [left, ceilings.ridge, right]
    heights = [min(x * ceilings.bytes_per_s, ceilings.operations_per_s) / 1e12 for x in corners]
    axes.plot(corners, heights, color=INK, linewidth=1.8, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="major")
    groups: list[list[str]] = []
    for name in sorted(places, key=places.__getitem__):
        if groups and math.log10(places[name] / places[groups[-1][0]]) <= _NEAR:
            groups[-1].append(name)
        else:
            groups.append([name])
    for group in groups:
        # Below the panel's upper edge, above all marks.
        x, label = math.sqrt(places[group[0]] * places[group[-1]]), _short(group[0])
        more = f" +{len(group) - 1}" if len(group) > 1 else ""
        at_top = axes.get_xaxis_transform()
        axes.text(x, 0.99, label + more, transform=at_top, rotation=90, fontsize=8, ha="center", va="top")


def _short(name: str) -> str:
    """Such as "w50 2.1" of "wide_resnet50_2 layer2.1"."""
    network, block = name.split()
    wide = "w" if network.startswith("wide") else ""
    return f"{wide}{network.removeprefix('wide_').removeprefix('resnet').removesuffix('_2')} {block[5:]}"


def _finish(figure: Figure, result: Result) -> None:
    settings, ceilings = result.settings, Ceilings(**result.details["ceilings"])
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=COLOURS[colour], markersize=6, label=way)
        for way, (colour, marker) in _LOOKS.items()
        if any(row["way"] == way for row in result.rows)
    ]
    roof = f"roof: {ceilings.bytes_per_s / 1e9:.3g} GB/s, {ceilings.operations_per_s / 1e12:.3g} TFLOP/s, measured"
    handles.append(Line2D([], [], color=INK, linewidth=1.8, label=roof))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles) if len(handles) < 6 else 4, fontsize=10)
    figure.supxlabel(
        "operations a byte that the tail needs at least\n"
        f"{result.provenance.device}, {settings['dtype']}, batch {settings['batch']};"
        " a label is network, stage.block (+ others beside it)",
        fontsize=10,
    )
