"""The demo's results as one picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..pictures import save, style
from ..timing import Spread
from .learning import Learning
from .networks import Network
from .results import Results

# Of Okabe and Ito's palette: told apart by every kind of colour vision, and by lightness alone.
_COLOURS = {"unfused": "#56B4E9", "fused": "#D55E00"}
_MIB = 2**20


def draw(results: Results, path: Path) -> None:
    """Saved activations and time block by block, learning curves and the networks' ratios, as a PNG."""
    with style():
        figure = Figure(figsize=(13, 13), dpi=120, layout=ConstrainedLayoutEngine(h_pad=0.12))
        grid = figure.add_gridspec(3, 2, width_ratios=(1, 1.1))
        _draw_saved(figure.add_subplot(grid[0, :]), results)
        _draw_times(figure.add_subplot(grid[1, :]), results)
        _draw_losses(figure.add_subplot(grid[2, 0]), results.learning)
        _draw_ratios(figure.add_subplot(grid[2, 1]), results.networks)
        figure.suptitle(_title(results), x=0.01, ha="left", fontsize=16, fontweight="bold")
        figure.supxlabel(_origin(results), x=0.01, ha="left", fontsize=10, color="0.35")
    save(figure, path)


def _title(results: Results) -> str:
    s = results.settings
    size = f"batch {s.batch_size}, {s.image_size}x{s.image_size}, float32"
    return f"{results.blocks_of} in training, unfused and with fused residual tails ({size})"


def _origin(results: Results) -> str:
    p = results.provenance
    return (
        f"{p.device}, {p.cores} CPU cores, PyTorch {p.torch}, fused_resnet {p.fused_resnet} ({p.backend} backend),"
        f" {p.date[:10]}"
    )


def _draw_saved(axes: Axes, results: Results) -> None:
    blocks = results.blocks
    _draw_bars(axes, "unfused", [block.saved_bytes.unfused / _MIB for block in blocks.values()])
    fused_bars = _draw_bars(axes, "fused", [block.saved_bytes.fused / _MIB for block in blocks.values()])
    _finish_bars(axes, list(blocks))
    ratios = [block.saved_bytes.fused / block.saved_bytes.unfused for block in blocks.values()]
    axes.bar_label(fused_bars, [f"{ratio:.0%}" for ratio in ratios], padding=2, fontsize=9)
    whole = results.networks[results.blocks_of].saved_bytes
    axes.set_title(
        f"Saved for backward by each block (the whole network, stem and head included:"
        f" {whole.fused / _MIB:,.0f} of {whole.unfused / _MIB:,.0f} MiB, {whole.fused / whole.unfused:.0%})"
    )
    axes.set_ylabel("saved activations [MiB]")


def _draw_times(axes: Axes, results: Results) -> None:
    blocks = results.blocks
    for side in _COLOURS:
        spreads = [getattr(block.training.spread, side) for block in blocks.values()]
        _draw_bars(axes, side, [spread.median * 1e3 for spread in spreads], _quartile_lengths(spreads))
    _finish_bars(axes, list(blocks))
    ratio = results.networks[results.blocks_of].training.ratio
    axes.set_title(
        "Forward and backward pass of each block (the whole network's training step:"
        f" {ratio.median:.2f} times the unfused network's)"
    )
    axes.set_ylabel("time [ms]: median, quartiles")


def _draw_bars(axes: Axes, side: str, heights: list[float], errors: list[list[float]] | None = None) -> BarContainer:
    """One side's bars; errors are lengths below and above."""
    offset = -0.2 if side == "unfused" else 0.2
    places = [place + offset for place in range(len(heights))]
    return axes.bar(places, heights, 0.4, color=_COLOURS[side], label=side, yerr=errors, error_kw={"ecolor": "0.2"})


def _quartile_lengths(spreads: list[Spread]) -> list[list[float]]:
    """From the median down and up to the quartiles, in ms."""
    return [
        [(spread.median - spread.lower) * 1e3 for spread in spreads],
        [(spread.upper - spread.median) * 1e3 for spread in spreads],
    ]


def _finish_bars(axes: Axes, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), [name.replace("layer", "") for name in names])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("block: stage.index")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="y")
    axes.legend(loc="upper right", ncols=2)


def _draw_losses(axes: Axes, learning: Learning) -> None:
    for side, width in (("unfused", 4.0), ("fused", 1.2)):
        losses, accuracy = getattr(learning.losses, side), getattr(learning.test_accuracy, side)
        label = f"{side}: {accuracy:.1%} of test images right"
        axes.plot(range(1, len(losses) + 1), losses, color=_COLOURS[side], linewidth=width, label=label)
    axes.set_yscale("log")
    axes.set_title(f"{learning.network} learns {learning.train_images:,} images of {learning.data}")
    axes.set_xlabel("training step")
    axes.set_ylabel("cross entropy of the batch")
    axes.grid()
    axes.legend(loc="lower left")


def _draw_ratios(axes: Axes, networks: dict[str, Network]) -> None:
    rows: list[tuple[str, Spread]] = []
    for name, network in networks.items():
        saved = network.saved_bytes.fused / network.saved_bytes.unfused
        rows.append((f"{name}\nsaved activations", Spread(saved, saved, saved)))
        rows.append((f"{name}\ntraining step", network.training.ratio))
        rows.append((f"{name}\nevaluation", network.evaluation.ratio))
    for place, (_, ratio) in enumerate(rows):
        axes.plot([ratio.lower, ratio.upper], [place] * 2, color="0.75", linewidth=9, solid_capstyle="butt")
        axes.plot(ratio.median, place, "D", color=_COLOURS["fused"], markersize=8)
        axes.text(1.02, place, f"{ratio.median:.3f}", transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(1, color="0.3", linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(min(0.5, *(ratio.lower - 0.05 for _, ratio in rows)), max(1.2, *(r.upper + 0.05 for _, r in rows)))
    axes.set_title("Whole networks: median and middle half of the pairs")
    axes.set_xlabel("fused / unfused (below 1: fused needs less)")
    axes.grid(axis="x")
