"""The demo's results as one picture, in words and in a few lines."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..pictures import COLOURS, FAINT, INK, label_rows, style
from ..result import Result, Row, Spread, amount, number, provenance_line, text
from .settings import FUSED, SIDES, UNFUSED, WHOLE

RATIOS = ("step / unfused", "evaluation / unfused", "saved / unfused")


def rows(result: Result, side: str, *, whole: bool) -> list[Row]:
    """The rows of whole networks that were timed, or of single blocks."""
    timed = [row for row in result.rows if row["side"] == side and row.get("step") is not None]
    return [row for row in timed if (row["part"] == WHOLE) == whole]


def caption(result: Result) -> str:
    """What the picture shows."""
    return (
        f"Saved activations (counted) and time (measured) of each block of {result.settings['blocks of']}, unfused and"
        f" fused; how {result.settings['network']} learns both ways; ratios of the whole networks;"
        f" on {result.provenance.device}."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """The ratios of each network."""
    header = ["network, fused / unfused", "training step (measured)", "evaluation (measured)", "saved (counted)"]
    lines = [
        [str(row["network"]), *(text(number(row[name])) for name in RATIOS)] for row in rows(result, FUSED, whole=True)
    ]
    return header, lines


_COLOURS = {UNFUSED: COLOURS["sky"], FUSED: COLOURS["red"]}
_MB = 1e6


def draw(result: Result) -> Figure:
    """Saved activations and time block by block, learning curves and the networks' ratios."""
    with style():
        figure = Figure(figsize=(11, 12), dpi=120, layout="constrained")
        grid = figure.add_gridspec(3, 2, width_ratios=(1, 1.1))
        _draw_blocks(figure.add_subplot(grid[0, :]), result, "saved", "saved activations [MB]", 1 / _MB)
        _draw_blocks(figure.add_subplot(grid[1, :]), result, "step", "time [ms]: median, quartiles", 1.0)
        _draw_losses(figure.add_subplot(grid[2, 0]), result)
        _draw_ratios(figure.add_subplot(grid[2, 1]), rows(result, FUSED, whole=True))
        s = result.settings
        size = f"batch {s['batch_size']}, {s['image_size']}x{s['image_size']}, float32"
        title = f"{s['blocks of']} in training, unfused and with fused residual tails ({size})"
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
        figure.supxlabel(provenance_line(result), x=0.01, ha="left", fontsize=9)
    return figure


def _draw_blocks(axes: Axes, result: Result, column: str, label: str, factor: float) -> None:
    for side, offset in zip(SIDES, (-0.2, 0.2), strict=True):
        own = rows(result, side, whole=False)
        heights = [amount(row, column) * factor for row in own]
        bars = axes.bar([i + offset for i in range(len(own))], heights, 0.4, color=_COLOURS[side], label=side)
        for i, row in enumerate(own):
            if isinstance(spread := row[column], Spread):
                axes.plot([i + offset] * 2, [spread.lower, spread.upper], color=INK, linewidth=1.2)
        if side == FUSED:
            ratios = [f"{number(row[f'{column} / unfused']):.0%}" for row in own]
            axes.bar_label(bars, ratios, padding=2, fontsize=9)
            axes.set_xticks(range(len(own)), [str(row["part"]).replace("layer", "") for row in own])
    (network,) = (row for row in rows(result, FUSED, whole=True) if row["network"] == result.settings["blocks of"])
    what = {"saved": "Saved for backward by each block", "step": "Forward and backward of each block"}[column]
    axes.set_title(f"{what} (the whole network: {number(network[f'{column} / unfused']):.0%} of the unfused one's)")
    axes.set_xlabel("block: stage.index")
    axes.set_ylabel(label)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    axes.legend(loc="upper right", ncols=2)


def _draw_losses(axes: Axes, result: Result) -> None:
    learned = [row for row in result.rows if row.get("loss") is not None]
    for row, width in zip(learned, (4.0, 1.2), strict=True):
        side = str(row["side"])
        losses = result.details["losses"][side]
        label = f"{side}: {number(row['test accuracy']):.1f} % of test images right"
        axes.plot(range(1, len(losses) + 1), losses, color=_COLOURS[side], linewidth=width, label=label)
    axes.set_yscale("log")
    axes.set_title(f"{result.settings['network']} learns {result.settings['data']}")
    axes.set_xlabel("training step")
    axes.set_ylabel("cross entropy of the batch")
    axes.grid()
    axes.legend(loc="lower left")


def _draw_ratios(axes: Axes, networks: list[Row]) -> None:
    points = [(f"{row['network']}\n{name.partition(' ')[0]}", row[name]) for row in networks for name in RATIOS]
    for place, (_, ratio) in enumerate(points):
        if isinstance(ratio, Spread):
            axes.plot([ratio.lower, ratio.upper], [place] * 2, color=FAINT, linewidth=9, solid_capstyle="butt")
        axes.plot(number(ratio) or 0.0, place, "D", color=_COLOURS[FUSED], markersize=8)
        axes.text(1.02, place, f"{number(ratio):.3f}", transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(1, color=INK, linewidth=1, zorder=0)
    label_rows(axes, [label for label, _ in points])
    axes.set_title("Whole networks: median and middle half of the pairs")
    axes.set_xlabel("fused / unfused (below 1: fused needs less)")
    axes.grid(axis="x")
