"""Where one way of computing a tail becomes faster than another, for ``python -m benchmarks calibrate --plot``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fused_resnet.cost import cost_model
from fused_resnet.cost.cost_model import BranchProblem, Rates, TailProblem, Way

from .pictures import COLOURS, style

# Of ResNet-50's Bottlenecks with an identity shortcut, by stage: channels of the last convolution's input.
STAGES = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
ROWS = np.geomspace(1e3, 1e6, 61)
WAYS: Mapping[Way, str] = {"moments": "blue", "library": "orange"}


def tail(inner: int, rows: int) -> TailProblem:
    """In half precision, forward and backward."""
    branches = BranchProblem("projection", inner, 1, "training"), BranchProblem("direct", 4 * inner, 1, "none")
    return TailProblem(rows, 4 * inner, branches, 2, "half", backward=True)


def times(inner: int, way: Way, rates: Rates) -> list[float]:
    """Nanoseconds a row, for each of `ROWS`."""
    return [cost_model.seconds(tail(inner, round(rows)), (way, None), rates) / rows * 1e9 for rows in ROWS]


def crossings(inner: int, rates: Rates) -> list[tuple[int, Way]]:
    """From how many rows on which way is the fastest."""
    each = {way: times(inner, way, rates) for way in WAYS}
    fastest = [min(each, key=lambda way: each[way][i]) for i in range(len(ROWS))]
    changes = [i for i, way in enumerate(fastest) if i == 0 or way != fastest[i - 1]]
    return [(round(ROWS[i]), fastest[i]) for i in changes]


def draw(before: Rates, after: Rates) -> Figure:
    """A panel a stage: time a row by the rates before (dotted) and after, with a mark where the fastest changes."""
    with style():
        figure = Figure(figsize=(11, 6.4), dpi=120, layout="constrained")
        panels: Sequence[Axes] = figure.subplots(2, 2, sharex=True).flat
        for axes, (stage, inner) in zip(panels, STAGES.items(), strict=True):
            _draw_stage(axes, inner, before, after)
            axes.set_title(f"{stage}: K = {inner}, C = {4 * inner}")
        panels[0].legend(fontsize=9)
        figure.supxlabel("rows M = N x H x W")
        figure.supylabel("ns a row, forward + backward")
    return figure


def _draw_stage(axes: Axes, inner: int, before: Rates, after: Rates) -> None:
    for way, colour in WAYS.items():
        axes.plot(ROWS, times(inner, way, before), ":", color=COLOURS[colour], linewidth=1.2)
        axes.plot(ROWS, times(inner, way, after), color=COLOURS[colour], linewidth=2, label=way)
    for rows, way in crossings(inner, after)[1:]:
        height = cost_model.seconds(tail(inner, rows), (way, None), after) / rows * 1e9
        axes.plot(rows, height, "o", color=COLOURS[WAYS[way]], markersize=7)
        axes.annotate(f" {way} from {rows:,} rows", (rows, height), fontsize=8, va="bottom")
    axes.set_xscale("log")
    axes.set_yscale("log")
