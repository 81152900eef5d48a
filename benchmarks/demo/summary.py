"""The demo's results as text."""

from __future__ import annotations

from ..provenance import Provenance
from ..sides import Sides
from ..table import table
from ..timing import Timing
from .blocks import Block
from .learning import AGREEMENT_LIMIT, Learning
from .networks import Network
from .results import Results

_SIDES = ("unfused", "fused")


def summary(results: Results) -> str:
    """Everything as aligned tables under headings."""
    s = results.settings
    tf32 = " (convolutions in tf32)" if results.provenance.tf32 else ""
    size = f"batches of {s.batch_size} images, {s.image_size}x{s.image_size}, float32{tf32}"
    sections = [
        _origin(results.provenance),
        "\n".join(_tails(name, network) for name, network in results.networks.items()),
        _learning(results.learning),
        f"Time, {size} (ratio: median over {s.pairs} interleaved pairs, half of them lie in the range)",
        _times(results.networks),
        f"Saved for backward, {size}",
        _saved(results.networks, s.batch_size),
        f"Relative error of float32 against float64, {s.accuracy_batch_size} images, {s.image_size}x{s.image_size}",
        _errors(results.networks),
        f"{results.blocks_of} block by block, {size}, time of forward + backward",
        _blocks(results.blocks),
    ]
    return "\n\n".join(sections)


def _origin(p: Provenance) -> str:
    commit = "no git checkout" if p.commit is None else p.commit[:12] + (" with changes" if p.dirty else "")
    load = "" if p.load_average is None else f", load average {p.load_average} at the start"
    return (
        f"{p.device}, {p.cores} CPU cores, {p.system}{load}\n"
        f"Python {p.python}, PyTorch {p.torch}, fused_resnet {p.fused_resnet} ({commit}), backend {p.backend}"
    )


def _tails(name: str, network: Network) -> str:
    refused = f", not fused: {', '.join(network.refused_tails)}" if network.refused_tails else ""
    return f"{name}: {len(network.fused_tails)} residual tails fused{refused}"


def _learning(learning: Learning) -> str:
    agreement = learning.float64
    last = max(1, len(learning.losses.unfused) // 10)
    losses = learning.losses.map(lambda losses: f"{sum(losses[-last:]) / last:.4f}")
    accuracies = learning.test_accuracy.map(lambda accuracy: f"{accuracy:.2%}")
    return "\n".join(
        [
            f"{learning.network}, shortcut B, learning {learning.data}: {learning.train_images:,} images,"
            f" {len(learning.losses.unfused):,} steps, tested on {learning.test_images:,} other images",
            "",
            table(
                ("", *_SIDES),
                [
                    (f"training loss, mean of the last {last} steps", losses.unfused, losses.fused),
                    ("test accuracy", accuracies.unfused, accuracies.fused),
                ],
            ),
            "",
            f"In float64, {len(agreement.losses.unfused)} steps: losses differ by"
            f" {agreement.largest_relative_difference:.1e} at most, relatively (allowed: {AGREEMENT_LIMIT:.0e})",
        ]
    )


def _times(networks: dict[str, Network]) -> str:
    rows = []
    for name, network in networks.items():
        for mode, timing in (("training step", network.training), ("evaluation", network.evaluation)):
            rows.append((f"{name}, {mode}", *_time_cells(timing)))
    return table(("", *(f"{side} [ms]" for side in _SIDES), "fused / unfused", "range"), rows)


def _time_cells(timing: Timing) -> tuple[str, str, str, str]:
    milliseconds = timing.spread.map(lambda seconds: f"{seconds.median * 1e3:.1f}")
    ratio = timing.ratio
    return milliseconds.unfused, milliseconds.fused, f"{ratio.median:.3f}", f"{ratio.lower:.3f} to {ratio.upper:.3f}"


def _saved(networks: dict[str, Network], batch_size: int) -> str:
    rows = []
    for name, network in networks.items():
        saved = network.saved_bytes
        rows.append((f"{name}, batch", *(f"{n:,}" for n in (saved.unfused, saved.fused)), _ratio(saved)))
        each = saved.map(lambda nbytes: nbytes / batch_size)
        rows.append((f"{name}, per image", f"{each.unfused:,.0f}", f"{each.fused:,.0f}", ""))
    return table(("", *(f"{side} [bytes]" for side in _SIDES), "fused / unfused"), rows)


def _errors(networks: dict[str, Network]) -> str:
    rows = []
    for name, network in networks.items():
        for what, error in (
            ("output in training", network.errors.map(lambda errors: errors.training_output)),
            ("gradient of all parameters", network.errors.map(lambda errors: errors.gradient)),
            ("output in evaluation", network.errors.map(lambda errors: errors.evaluation_output)),
        ):
            rows.append((f"{name}, {what}", f"{error.unfused:.1e}", f"{error.fused:.1e}", _ratio(error)))
    return table(("", *_SIDES, "fused / unfused"), rows)


def _blocks(blocks: dict[str, Block]) -> str:
    rows = []
    for name, block in blocks.items():
        saved = block.saved_bytes
        rows.append((name, f"{saved.unfused:,}", f"{saved.fused:,}", _ratio(saved), *_time_cells(block.training)[:3]))
    return table(
        ("", "unfused [bytes]", "fused [bytes]", "ratio", "unfused [ms]", "fused [ms]", "ratio"),
        rows,
    )


def _ratio(sides: Sides[int] | Sides[float]) -> str:
    return f"{sides.fused / sides.unfused:.3f}"
