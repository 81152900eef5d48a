"""The saved activations as a picture, in words and in a small table."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..networks import COLOURS, COMPILE, EAGER, FUSED, FUSED_COMPILE, RECOMPUTE
from ..pictures import COLOURS as PALETTE
from ..pictures import FAINT, INK, label_rows, places, style
from ..result import Result, Row, amount, grouped

WHOLE, REST = "(whole)", "(stem and head)"
# The networks of the small table.
_FIRST = ("resnet18", "resnet50", "resnet152", "wide_resnet50_2", "resnet56-A", "resnet56-B", "timm:resnet50d")
# A tick across the bar, in the way's colour.
_TICKED = (RECOMPUTE, COMPILE, FUSED_COMPILE)


def whole(result: Result) -> dict[str, dict[str, Row]]:
    """Rows of whole networks that were counted eager and fused: by network, then by way."""
    networks = grouped([row for row in result.rows if row["block"] == WHOLE], "model", "way")
    return {model: rows for model, rows in networks.items() if EAGER in rows and FUSED in rows}


def _megabytes(row: Row) -> float:
    return amount(row, "an image")


def conditions(result: Result) -> str:
    """In a few words."""
    size = result.settings["size"]
    images = f"{size}x{size}" if size else "224x224 (CIFAR networks: 32x32)"
    return f"batches of {result.settings['batch']} images of {images}, {result.settings['dtype']}"


def caption(result: Result) -> str:
    """For the picture: what is shown, and that it is counted."""
    by_block = " and block by block" if any(row["block"] != WHOLE for row in result.rows) else ""
    return (
        "What the forward pass of a training step keeps for backward, with fused tails and with PyTorch's operations,"
        f" of whole ResNets{by_block}. Counted exactly for {conditions(result)}; nothing is measured."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a network: MB an image in each way, and the ratios."""
    header = ["network", "eager, MB an image (counted)", "fused, MB an image (counted)", "fused / eager (counted)"]
    header += ["norms recomputed, MB an image (counted)", "recomputed / eager (counted)"]
    networks = whole(result)
    lines = []
    for model in [model for model in _FIRST if model in networks] or list(networks)[: len(_FIRST)]:
        ways, eager = networks[model], _megabytes(networks[model][EAGER])
        each = [_megabytes(ways[way]) if way in ways else None for way in (FUSED, RECOMPUTE)]
        cells = [("", "") if own is None else (f"{own:.1f}", f"{own / eager:.3f}") for own in each]
        lines.append([model, f"{eager:.1f}", *(cell for pair in cells for cell in pair)])
    return header, lines


def draw(result: Result) -> Figure:
    """What of each network's saved activations is left, then bytes block by block where they were counted."""
    networks = whole(result)
    by_block = [row for row in result.rows if row["block"] != WHOLE]
    by_block = [row for row in by_block if row["model"] == by_block[0]["model"]]
    height = 1.6 + 0.3 * len(networks)
    heights = [height, 3.6] if by_block else [height]
    with style():
        figure = Figure(figsize=(10, sum(heights)), dpi=120, layout="constrained")
        axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _draw_networks(axes[0], networks)
        if by_block:
            _draw_blocks(axes[1], str(by_block[0]["model"]), grouped(by_block, "way", "block"))
        figure.supxlabel(f"Counted: {conditions(result)}", x=0.01, ha="left", fontsize=9)
    return figure


def _draw_networks(axes: Axes, networks: dict[str, dict[str, Row]]) -> None:
    axes.set_title("Saved for backward, fused / eager")
    for place, rows in enumerate(networks.values()):
        eager, fused = _megabytes(rows[EAGER]), _megabytes(rows[FUSED])
        axes.barh(place, 1, 0.7, color=FAINT)
        axes.barh(place, fused / eager, 0.7, color=PALETTE[COLOURS[FUSED]])
        axes.text(0.01, place, f"{fused / eager:.1%}", color="white", va="center")
        short = [f"{mb:.1f}" if mb >= 10 else f"{mb:.2f}" for mb in (fused, eager)]
        axes.text(1.02, place, f"{short[0]} of {short[1]} MB an image", va="center", fontsize=10)
        for way in (way for way in _TICKED if way in rows):
            ends, ratio = [place - 0.45, place + 0.45], _megabytes(rows[way]) / eager
            label = None if way in axes.get_legend_handles_labels()[1] else way
            axes.plot([ratio] * 2, ends, color=INK, linewidth=4.5, solid_capstyle="butt")
            colour = PALETTE[COLOURS[way]]
            axes.plot([ratio] * 2, ends, color=colour, linewidth=2.5, label=label, solid_capstyle="butt")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1)
    label_rows(axes, list(networks))
    axes.set_xlim(0, 1.32)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_bounds(0, 1)


def _draw_blocks(axes: Axes, model: str, ways: dict[str, dict[str, Row]]) -> None:
    axes.set_title(f"{model}, block by block")
    names = list(next(iter(ways.values())))
    for (way, blocks), own in zip(ways.items(), places(len(ways), len(names), 0.8), strict=True):
        heights = [_megabytes(blocks[name]) for name in names]
        axes.bar(own, heights, 0.8 / len(ways), color=PALETTE[COLOURS[way]], label=way)
    for place, name in enumerate(names if EAGER in ways and FUSED in ways else []):
        eager, fused = (_megabytes(ways[way][name]) for way in (EAGER, FUSED))
        top = place, max(eager, fused)
        axes.annotate(f"{fused / eager:.0%}", top, (0, 2), textcoords="offset points", ha="center", fontsize=9)
    shown = ["stem,\nhead" if name == REST else name.removeprefix("layer") for name in names]
    axes.set_xticks(range(len(names)), shown)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.margins(y=0.1)
    axes.set_xlabel("block: stage.index")
    axes.set_ylabel("MB an image")
    axes.grid(axis="y")
    axes.legend(loc="upper right", ncols=2)
