"""Shows what fused tails do, against the same models unfused.

A small ResNet learns real images, both ways. ResNet-18 and ResNet-50 are
timed in training and evaluation, their saved activations counted and their
results compared with float64; ResNet-50 block by block, too. The table goes
to standard output, a picture and a JSON file to the output folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from .. import data, options
from ..provenance import provenance
from ..result import Result
from .columns import COLUMNS
from .learning import AGREEMENT_LIMIT, learn
from .networks import BLOCKS_OF, NETWORKS, rows_of
from .settings import CPU, GPU, QUICK, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the demo's options."""
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny sizes: its numbers mean nothing")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.npz",
        help="learn from this file instead of MNIST: images (N, H, W) or (N, H, W, C) uint8, labels (N,) from 0",
    )
    parser.add_argument(
        "--batch-size", type=options.at_least(1), metavar="N", help="of the timed networks; default: 16, 64 on a GPU"
    )
    parser.add_argument("--pairs", type=options.at_least(2), metavar="N", help="timed pairs of each network")
    parser.add_argument("--epochs", type=options.at_least(1), metavar="N", help="of learning")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=Path(__file__).parents[1] / "results",
        help="default: benchmarks/results in the repository",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo; the exit status is 1 where fused and unfused do not agree in float64."""
    device = options.device_of(arguments.device)
    settings = _settings(arguments, device)
    images = data.load(arguments.data, settings.image_limit)
    origin = provenance(device, arguments)
    learning = learn(images, settings, device)
    notes = [
        learning.note,
        f"Networks: batches of {settings.batch_size} images, {settings.image_size}x{settings.image_size}, float32"
        f"{' (convolutions in tf32)' if origin.tf32 else ''}. A block's step is its forward and backward.",
        f"Errors are relative to float64, of {settings.accuracy_batch_size} images.",
    ]
    described = {**asdict(settings), "data": images.name, "network": learning.network, "blocks of": BLOCKS_OF}
    result = Result("demo", origin, described, COLUMNS, [], notes, learning.details)
    for name in NETWORKS:
        result.rows.extend(rows_of(name, settings, device))
    result.rows.extend(learning.rows)
    file = arguments.output / f"demo-{'quick-' if arguments.quick else ''}{device.type}"
    arguments.json, arguments.plot = file.with_suffix(".json"), file.with_suffix(".svg")
    options.finish(result, arguments)
    if not learning.agrees:
        print(f"benchmarks: fused and unfused losses differ by more than {AGREEMENT_LIMIT:g}", file=sys.stderr)
        return 1
    return 0


def _settings(arguments: argparse.Namespace, device: torch.device) -> Settings:
    base = QUICK if arguments.quick else GPU if device.type == "cuda" else CPU
    asked = {name: getattr(arguments, name) for name in ("batch_size", "pairs", "epochs")}
    return replace(base, **{name: value for name, value in asked.items() if value is not None})
