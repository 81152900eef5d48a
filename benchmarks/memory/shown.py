"""The saved activations as a picture, in words and in a small table."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..network_ways import COLOURS, COMPILE, EAGER, FUSED, FUSED_COMPILE, RECOMPUTE
from ..pictures import COLOURS as PALETTE
from ..pictures import FAINT, INK, style
from ..result import Result, Row, number

WHOLE, REST = "(whole)", "(stem and head)"
# The networks of the small table.
_FIRST = ("resnet18", "resnet50", "resnet152", "wide_resnet50_2", "resnet56-A", "resnet56-B", "timm:resnet50d")


def whole(result: Result) -> dict[str, dict[str, Row]]:
    """Rows of whole networks: by network, then by way."""
    rows: dict[str, dict[str, Row]] = {}
    for row in result.rows:
        if row["block"] == WHOLE:
            rows.setdefault(str(row["model"]), {})[str(row["way"])] = row
    return rows


def parts(result: Result, model: str) -> dict[str, dict[str, float]]:
    """MB an image of a network's blocks and of the rest: by way, then by block."""
    found: dict[str, dict[str, float]] = {}
    for row in result.rows:
        if row["model"] == model and row["block"] != WHOLE:
            found.setdefault(str(row["way"]), {})[str(row["block"])] = megabytes(row)
    return found


def models_with_parts(result: Result) -> list[str]:
    """Networks that were counted block by block."""
    return list(dict.fromkeys(str(row["model"]) for row in result.rows if row["block"] != WHOLE))


def megabytes(row: Row) -> float:
    """Saved an image."""
    return number(row["an image"]) or 0.0


def conditions(result: Result) -> str:
    """In a few words."""
    size = (
        f"{result.settings['size']}x{result.settings['size']}"
        if result.settings["size"]
        else "224x224 (CIFAR networks: 32x32)"
    )
    return f"batches of {result.settings['batch']} images of {size}, {result.settings['dtype']}"


def caption(result: Result) -> str:
    """For the picture: what is shown, and that it is counted."""
    text = (
        "What the forward pass of a training step keeps for backward, with fused tails and with PyTorch's operations,"
        f" of whole ResNets{' and block by block' if models_with_parts(result) else ''}."
    )
    return f"{text} Counted exactly for {conditions(result)}; nothing is measured."


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a network: MB an image in each way, and the ratios."""
    header = ["network", "eager, MB an image (counted)", "fused, MB an image (counted)", "fused / eager (counted)"]
    header += ["norms recomputed, MB an image (counted)", "recomputed / eager (counted)"]
    both = {model: rows for model, rows in whole(result).items() if EAGER in rows and FUSED in rows}
    chosen = [model for model in _FIRST if model in both] or list(both)[: len(_FIRST)]
    return header, [[model, *_line(both[model])] for model in chosen]


def _line(ways: dict[str, Row]) -> Iterator[str]:
    eager = megabytes(ways[EAGER])
    yield f"{eager:.1f}"
    for way in (FUSED, RECOMPUTE):
        own = megabytes(ways[way]) if way in ways else None
        yield from ("", "") if own is None else (f"{own:.1f}", f"{own / eager:.3f}")


_BAR = 0.7
# A tick across the bar, in the way's colour.
_TICKED = (RECOMPUTE, COMPILE, FUSED_COMPILE)


def draw(result: Result) -> Figure:
    """What of each network's saved activations is left, then bytes block by block where they were counted."""
    networks = {name: rows for name, rows in whole(result).items() if EAGER in rows and FUSED in rows}
    by_block = models_with_parts(result)[:1]
    height = 1.6 + 0.3 * len(networks)
    with style():
        figure = Figure(figsize=(10, height + 3.6 * len(by_block)), dpi=120, layout="constrained")
        heights = [height, *[3.6] * len(by_block)]
        axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _draw_networks(axes[0], networks)
        for model, below in zip(by_block, axes[1:], strict=True):
            _draw_blocks(below, model, parts(result, model))
        figure.supxlabel(f"Counted: {conditions(result)}", x=0.01, ha="left", fontsize=9)
    return figure


def _draw_networks(axes: Axes, networks: dict[str, dict[str, Row]]) -> None:
    axes.set_title("Saved for backward, fused / eager")
    for place, rows in enumerate(networks.values()):
        eager, fused = megabytes(rows[EAGER]), megabytes(rows[FUSED])
        axes.barh(place, 1, _BAR, color=FAINT)
        axes.barh(place, fused / eager, _BAR, color=PALETTE[COLOURS[FUSED]])
        axes.text(0.01, place, f"{fused / eager:.1%}", color="white", va="center")
        axes.text(1.02, place, f"{_short(fused)} of {_short(eager)} MB an image", va="center", fontsize=10)
        for way in _TICKED:
            if way in rows:
                _tick(axes, megabytes(rows[way]) / eager, place, way)
    if any(way in rows for rows in networks.values() for way in _TICKED):
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1)
    axes.set_yticks(range(len(networks)), list(networks))
    axes.set_ylim(len(networks) - 0.4, -0.6)
    axes.set_xlim(0, 1.32)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_bounds(0, 1)


def _short(megabytes: float) -> str:
    return f"{megabytes:.1f}" if megabytes >= 10 else f"{megabytes:.2f}"


def _tick(axes: Axes, ratio: float, place: int, way: str) -> None:
    """Across the network's bar; the first has the label."""
    ends = [place - 0.45, place + 0.45]
    labelled = way in axes.get_legend_handles_labels()[1]
    axes.plot([ratio] * 2, ends, color=INK, linewidth=4.5, solid_capstyle="butt")
    colour = PALETTE[COLOURS[way]]
    axes.plot([ratio] * 2, ends, color=colour, linewidth=2.5, label="" if labelled else way, solid_capstyle="butt")


def _draw_blocks(axes: Axes, model: str, ways: dict[str, dict[str, float]]) -> None:
    axes.set_title(f"{model}, block by block")
    names = list(next(iter(ways.values())))
    width = 0.8 / len(ways)
    for i, (way, blocks) in enumerate(ways.items()):
        places = [place + (i - (len(ways) - 1) / 2) * width for place in range(len(names))]
        axes.bar(places, [blocks[name] for name in names], width, color=PALETTE[COLOURS[way]], label=way)
    if EAGER in ways and FUSED in ways:
        _write_ratios(axes, ways[EAGER], ways[FUSED])
    shown = ["stem,\nhead" if name == REST else name.removeprefix("layer") for name in names]
    axes.set_xticks(range(len(names)), shown)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.margins(y=0.1)
    axes.set_xlabel("block: stage.index")
    axes.set_ylabel("MB an image")
    axes.grid(axis="y")
    axes.legend(loc="upper right", ncols=2)


def _write_ratios(axes: Axes, eager: dict[str, float], fused: dict[str, float]) -> None:
    """Above the bars."""
    for place, name in enumerate(eager):
        top = (place, max(eager[name], fused[name]))
        text = f"{fused[name] / eager[name]:.0%}"
        axes.annotate(text, top, (0, 2), textcoords="offset points", ha="center", fontsize=9)
