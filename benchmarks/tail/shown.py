"""The roofline, every tail at the operations a byte that it needs; in words and in a few lines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..modes import MODES
from ..pictures import COLOURS, FAINT, INK, style
from ..result import Result, Row, number
from .rows import work_of
from .work import Ceilings

# The small table gives the fused tail's time as a share of these ways' times.
_RIVALS = ("eager", "compile", "compile-max-autotune", "cudnn-fused")
_ByWay = dict[str, Row]


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    tails = len({row["tail"] for row in result.rows})
    settings = result.settings
    return (
        f"Roofline of {tails} residual tails of ResNets, each computed fused and in PyTorch's other ways: achieved"
        " operations a second against the operations a byte that the tail needs. Measured on"
        f" {result.provenance.device} ({settings['dtype']}, batches of {settings['batch']}, fused by the"
        f" {result.provenance.backend} backend)."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """Fused against the others, a line a mode: the median over all tails, the quickest and the slowest tail."""
    rivals = [way for way in _RIVALS if any(row["way"] == way for row in result.rows)]
    header = ["mode", "tails", *(f"fused time / {way} (measured)" for way in rivals)]
    header += ["fused, of the roofline (measured)", "eager (measured)", "fused bytes / eager (counted)"]
    rows = []
    for mode in MODES:
        tails = _tails(result, mode)
        if tails:
            cells = [_ratios(tails, "time", way) for way in rivals]
            cells += [_shares(tails, way) for way in ("fused", "eager")]
            rows.append([mode, str(len(tails)), *cells, _ratios(tails, "bytes", "eager")])
    return header, rows


def _tails(result: Result, mode: str) -> list[_ByWay]:
    """The rows of each tail, by their ways."""
    tails: dict[str, _ByWay] = {}
    for row in result.rows:
        if row["mode"] == mode:
            tails.setdefault(str(row["tail"]), {})[str(row["way"])] = row
    return list(tails.values())


def _ratios(tails: list[_ByWay], column: str, rival: str) -> str:
    ratios = []
    for ways in tails:
        ours, theirs = (number(ways.get(way, {}).get(column)) for way in ("fused", rival))
        if ours is not None and theirs:
            ratios.append(ours / theirs)
    some = f", of {len(ratios)}" if 0 < len(ratios) < len(tails) else ""
    return _spread(ratios, "{:.2f}".format) + some


def _shares(tails: list[_ByWay], way: str) -> str:
    shares = (number(ways.get(way, {}).get("roofline")) for ways in tails)
    return _spread([share for share in shares if share is not None], "{:.0%}".format)


def _spread(values: list[float], shown: Callable[[float], str]) -> str:
    if not values:
        return ""
    median, lowest, highest = map(shown, (statistics.median(values), min(values), max(values)))
    return median if len(values) == 1 else f"{median} ({lowest} to {highest})"


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


def draw(result: Result) -> Figure:
    """All tails and ways of the result."""
    modes = [mode for mode in _TITLES if any(row["mode"] == mode for row in result.rows)]
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


def _draw_panel(axes: Axes, result: Result, mode: str) -> None:
    rows = [row for row in result.rows if row["mode"] == mode]
    _draw_roof(axes, Ceilings(**result.details["ceilings"]), rows)
    for tail in dict.fromkeys(row["tail"] for row in rows):
        own = [row for row in rows if row["tail"] == tail]
        heights = [_achieved(row) for row in own]
        axes.plot([work_of(own[0]).intensity] * 2, [min(heights), max(heights)], color=FAINT, linewidth=1, zorder=1)
    for way in reversed(_LOOKS):
        own = [row for row in rows if row["way"] == way]
        colour, marker = _LOOKS[way]
        places = [work_of(row).intensity for row in own], [_achieved(row) for row in own]
        (points,) = axes.plot(*places, linestyle="", marker=marker, color=COLOURS[colour], markersize=5, alpha=0.85)
        points.set_zorder(3 if way == "fused" else 2)
    axes.set_title(_TITLES[mode])


def _draw_roof(axes: Axes, ceilings: Ceilings, rows: list[Row]) -> None:
    intensities = [work_of(row).intensity for row in rows]
    left, right = min(intensities) / 1.6, max(*intensities, ceilings.ridge) * 1.6
    corners = [left, ceilings.ridge, right]
    heights = [min(x * ceilings.bytes_per_s, ceilings.operations_per_s) / 1e12 for x in corners]
    axes.plot(corners, heights, color=INK, linewidth=1.8, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="major")
    for x, label in _labels(rows):
        # Below the panel's upper edge, above all marks.
        axes.text(x, 0.99, label, transform=axes.get_xaxis_transform(), rotation=90, fontsize=8, ha="center", va="top")


def _labels(rows: list[Row]) -> Iterator[tuple[float, str]]:
    """A place and a label for each group of tails that are near one another."""
    places = {str(row["tail"]): work_of(row).intensity for row in rows}
    group: list[str] = []
    for name, x in sorted(places.items(), key=lambda place: place[1]):
        if group and math.log10(x / places[group[0]]) > _NEAR:
            yield _label(group, places)
            group = []
        group.append(name)
    if group:
        yield _label(group, places)


def _label(group: list[str], places: dict[str, float]) -> tuple[float, str]:
    middle = math.sqrt(places[group[0]] * places[group[-1]])
    more = f" +{len(group) - 1}" if len(group) > 1 else ""
    return middle, _short(group[0]) + more


def _short(name: str) -> str:
    """Such as "w50 2.1" of "wide_resnet50_2 layer2.1"."""
    network, block = name.split()
    wide = "w" if network.startswith("wide") else ""
    return f"{wide}{network.removeprefix('wide_').removeprefix('resnet').removesuffix('_2')} {block[5:]}"


def _achieved(row: Row) -> float:
    """TFLOP/s."""
    value = number(row["computed"])
    assert value is not None
    return value


def _finish(figure: Figure, result: Result) -> None:
    settings, ceilings = result.settings, Ceilings(**result.details["ceilings"])
    present = [way for way in _LOOKS if any(row["way"] == way for row in result.rows)]
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=COLOURS[colour], markersize=6, label=way)
        for way, (colour, marker) in ((way, _LOOKS[way]) for way in present)
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
