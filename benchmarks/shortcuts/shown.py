"""The study's picture, in words and in a small table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

from .. import pictures
from ..pictures import COLOURS, FAINT, INK
from ..result import Result, amount
from .contrasts import Contrast
from .cost import WAYS
from .outcome import contrasts_of, runs_of
from .settings import OPTIONS, Job
from .training import Run

_PALETTE = ("grey", "pink", "sky", "red", "orange", "blue", "green")
_COLOURS = dict(zip(OPTIONS, [*(COLOURS[name] for name in _PALETTE), INK], strict=True))


def caption(result: Result) -> str:
    s = result.settings
    depths = ", ".join(map(str, s["depths"]))
    return (
        f"Test accuracy of CIFAR ResNets of depth {depths} without shortcuts and with each kind, {s['seeds']} seeds"
        " each; paired differences; gradient norm along the depth; time and memory of a step."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """Test accuracy by option and depth, and what the deepest network costs relative to option A's."""
    depths = result.settings["depths"]
    by_key = {result.key(row): row for row in result.rows}
    accuracy = [f"test accuracy [%], depth {depth} (measured)" for depth in depths]
    header = ["shortcuts", "", *accuracy, f"parameters, depth {depths[-1]} (counted)"]
    rows = []
    for option in result.settings["options"]:
        each = [by_key[depth, option] for depth in depths]
        accuracies = [_percent(row["test accuracy"]) for row in each]
        rows.append([option, OPTIONS[option].description, *accuracies, f"{each[-1]['parameters']:,}"])
    return header, rows


def _percent(value: Any) -> str:
    return f"{value.median:.1f} ({value.lower:.1f} to {value.upper:.1f})"


def draw(result: Result) -> Figure:
    """Accuracies, paired differences, gradients through the deepest network, and costs."""
    with pictures.style():
        figure = Figure(figsize=(10, 15), layout="constrained")
        grid = figure.add_gridspec(4, 2, height_ratios=(1.15, 1.25, 1, 1))
        _draw_accuracies(figure.add_subplot(grid[0, :]), result)
        _draw_contrasts(figure.add_subplot(grid[1, :]), result)
        before, after = figure.add_subplot(grid[2, 0]), figure.add_subplot(grid[2, 1])
        _draw_gradients(before, result, lambda run: run.gradients_before)
        _draw_gradients(after, result, lambda run: run.gradients_after)
        deepest = max(result.settings["depths"])
        before.set_title(f"Gradient along depth {deepest}, at initialisation")
        after.set_title("... and after training")
        before.set_ylabel("norm at the block's output,\nrelative to the last block's")
        _draw_cost(figure.add_subplot(grid[3, 0]), result, "step", "ms")
        _draw_cost(figure.add_subplot(grid[3, 1]), result, "saved", "MB")
        s = result.settings
        figure.supxlabel(
            f"{s['task']}; {s['steps']} steps of {s['batch_size']} images; {s['seeds']} seeds of each option and depth",
            fontsize=10,
        )
        return figure


def _draw_accuracies(axes: Axes, result: Result) -> None:
    """Every training a dot, and a line at the median."""
    s, runs = result.settings, runs_of(result)
    options = s["options"]
    for group, depth in enumerate(s["depths"]):
        for place, option in enumerate(options):
            x = group + (place - (len(options) - 1) / 2) / (len(options) + 2)
            values = [100 * runs[Job(option, depth, seed)].accuracy for seed in range(s["seeds"])]
            label = f"{option}: {OPTIONS[option].description}" if group == 0 else None
            axes.plot([x] * len(values), values, "o", color=_COLOURS[option], markersize=4.5, alpha=0.55, label=label)
            axes.plot([x - 0.035, x + 0.035], [median(values)] * 2, color=_COLOURS[option], linewidth=3)
    axes.set_xticks(range(len(s["depths"])), [f"depth {depth}" for depth in s["depths"]])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("test accuracy [%]")
    axes.set_title("Each training, and the median of each kind of shortcut")
    axes.grid(axis="y")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize=9.5, handletextpad=0.1, columnspacing=1
    )


def _draw_contrasts(axes: Axes, result: Result) -> None:
    """A row a question, a mark a depth: mean and its standard error twice; filled where p, corrected, is below 5 %."""
    found, depths = contrasts_of(result), result.settings["depths"]
    questions = list(dict.fromkeys((c.first, c.second) for c in found))
    shades = dict(zip(depths, (COLOURS["sky"], COLOURS["blue"], COLOURS["red"]), strict=False))
    for contrast in found:
        place = questions.index((contrast.first, contrast.second))
        offset = (depths.index(contrast.depth) - (len(depths) - 1) / 2) * 0.22
        _draw_contrast(axes, contrast, place + offset, shades.get(contrast.depth, INK), labelled=place == 0)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(questions)), [f"{first} - {second}" for first, second in questions])
    axes.set_ylim(len(questions) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("symlog", linthresh=1, linscale=1.2)
    axes.xaxis.set_major_locator(FixedLocator([sign * x for sign in (-1, 1) for x in (0, 0.5, 1, 2, 5, 10, 20, 50)]))
    axes.xaxis.set_major_formatter("{x:+g}")
    axes.set_xlabel("difference of test accuracy [% points]: mean over the seeds, and twice its standard error")
    axes.set_title("Paired differences (filled: corrected p < 0.05)")
    axes.grid(axis="x")
    axes.legend(loc="upper left", handletextpad=0.2)


def _draw_contrast(axes: Axes, contrast: Contrast, y: float, colour: str, labelled: bool) -> None:
    centre, reach = 100 * contrast.mean, 200 * contrast.error
    filled = contrast.adjusted < 0.05
    axes.plot([centre - reach, centre + reach], [y, y], color=colour, linewidth=2)
    label = f"depth {contrast.depth}" if labelled else None
    face = colour if filled else "none"
    axes.plot(centre, y, "o", color=colour, markerfacecolor=face, markersize=8, markeredgewidth=2, label=label)


def _draw_gradients(axes: Axes, result: Result, gradients: Callable[[Run], Sequence[float]]) -> None:
    """The deepest network's gradients: the median over the seeds, block by block."""
    s, runs = result.settings, runs_of(result)
    depth, blocks = max(s["depths"]), 0
    for option in s["options"]:
        each = [gradients(runs[Job(option, depth, seed)]) for seed in range(s["seeds"])]
        relative = [median(norms) for norms in zip(*([n / of[-1] for n in of] for of in each), strict=True)]
        blocks = len(relative)
        axes.plot(range(1, blocks + 1), relative, "o-", markersize=3, color=_COLOURS[option], linewidth=1.8)
    for stage in (1, 2):
        axes.axvline(stage * blocks / 3 + 1, color=FAINT, linewidth=1.5, linestyle=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("block (dotted: those that change the shape)")
    axes.grid(axis="y")


def _draw_cost(axes: Axes, result: Result, what: str, unit: str) -> None:
    """The deepest network's cost, by way."""
    depth = max(result.settings["depths"])
    rows = [row for row in result.rows if row["depth"] == depth]
    for place, row in enumerate(rows):
        option = str(row["shortcuts"])
        for i, way in enumerate(WAYS.values()):
            height = amount(row, f"{what}, {way}")
            colour = _COLOURS[option]
            look: dict[str, Any] = (
                {"hatch": "///", "edgecolor": colour, "facecolor": "none"} if i else {"color": colour}
            )
            axes.bar(place + (i - 0.5) * 0.4, height, 0.36, **look)
    axes.set_xticks(range(len(rows)), [str(row["shortcuts"]).replace(" ", "\n") for row in rows], fontsize=8.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    titles = {"step": "Time of a training step", "saved": "Saved activations of a step"}
    axes.set_title(f"{titles[what]}, depth {depth}")
    axes.set_ylabel(f"[{unit}]; hatched: fused")
