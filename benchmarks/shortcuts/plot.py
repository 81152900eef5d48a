"""The comparison's pictures, as SVG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..style import STYLE
from .experiment import Results, Run

# Of Okabe and Ito's palette: told apart by every kind of colour vision.
_LINES = {
    "none": ("#000000", "none: no shortcut at all"),
    "identity only": ("#CC79A7", "none where the shape changes"),
    "A": ("#0072B2", "A: zeros appended"),
    "B": ("#D55E00", "B: projection, trained"),
    "frozen": ("#009E73", "B, frozen"),
}
_STYLE = {
    **STYLE,
    # An opaque page of its own, for light and dark surroundings.
    "savefig.facecolor": "white",
    "savefig.edgecolor": "0.82",
    # The same file from the same numbers.
    "svg.hashsalt": "shortcuts",
}
_SMOOTHED = 10


def draw_gradients(results: Results, path: Path) -> None:
    """Norm of the gradient at each block relative to the last block's, ahead of training and after it."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 4.6), linewidth=1, layout="constrained")
        before, after = figure.subplots(1, 2, sharey=True)
        _draw_depth(before, results, lambda run: run.gradients_before)
        _draw_depth(after, results, lambda run: run.gradients_after)
        before.set_title("At initialisation")
        after.set_title(f"After {results.settings.steps} steps")
        before.set_ylabel("gradient norm at the block's output,\nrelative to the last block's")
        before.legend(frameon=False)
        _finish(figure, results, path)


def draw_losses(results: Results, path: Path) -> None:
    """Training loss of each step, averaged over a few."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 4.6), linewidth=1, layout="constrained")
        axes = figure.subplots()
        for option, runs in results.runs.items():
            _draw_runs(axes, option, [_smoothed(run.losses) for run in runs])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("training step")
        axes.set_ylabel(f"cross entropy, mean of {_SMOOTHED} batches")
        axes.set_title("The first training steps")
        axes.grid(axis="y")
        axes.legend(frameon=False, loc="lower left")
        _finish(figure, results, path)


def _draw_depth(axes: Axes, results: Results, gradients: Callable[[Run], list[float]]) -> None:
    blocks = 0
    for option, runs in results.runs.items():
        curves = [[norm / gradients(run)[-1] for norm in gradients(run)] for run in runs]
        blocks = len(curves[0])
        _draw_runs(axes, option, curves)
    for stage in (1, 2):
        axes.axvline(stage * blocks / 3 + 1, color="0.6", linewidth=1, linestyle=":")
    axes.set_yscale("log")
    axes.set_xlabel("block (dotted: the two that change the shape)")
    axes.grid(axis="y")


def _draw_runs(axes: Axes, option: str, curves: Sequence[Sequence[float]]) -> None:
    """The median of an option's runs, and the range of all of them."""
    colour, label = _LINES[option]
    each_place = list(zip(*curves, strict=True))
    places = range(1, len(each_place) + 1)
    axes.plot(places, [median(values) for values in each_place], color=colour, linewidth=2, label=label)
    lowest, highest = [min(values) for values in each_place], [max(values) for values in each_place]
    axes.fill_between(places, lowest, highest, color=colour, alpha=0.15, linewidth=0)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Means of up to `_SMOOTHED` values that end at each place."""
    windows = [values[max(0, end - _SMOOTHED) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def _finish(figure: Figure, results: Results, path: Path) -> None:
    s = results.settings
    figure.supxlabel(
        f"CIFAR ResNet-{s.depth} on {results.data}, batch {s.batch_size}, SGD {s.learning_rate} with momentum 0.9;"
        f" lines: median of {s.seeds} seeds, bands: all of them",
        x=0.01,
        ha="left",
        fontsize=9,
        color="0.35",
    )
    figure.savefig(path, metadata={"Date": None})
