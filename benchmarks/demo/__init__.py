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

from .. import data, options
from ..provenance import provenance
from ..result import Result
from .learning import AGREEMENT_LIMIT, learn
from .networks import BLOCKS_OF, NETWORKS, rows_of
from .settings import COLUMNS, CPU, GPU, QUICK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the demo's options."""
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny sizes: its numbers mean nothing")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    own = "learn from this file instead of MNIST: images (N, H, W) or (N, H, W, C) uint8, labels (N,) from 0"
    parser.add_argument("--data", type=Path, metavar="FILE.npz", help=own)
    for name, least, what in (
        ("batch-size", 1, "of the timed networks; default: 16, 64 on a GPU"),
        ("pairs", 2, "timed pairs of each network"),
        ("epochs", 1, "of learning"),
    ):
        parser.add_argument(f"--{name}", type=options.at_least(least), metavar="N", help=what)
    folder, default = Path(__file__).parents[1] / "results", "default: benchmarks/results in the repository"
    parser.add_argument("--output", type=Path, metavar="FOLDER", default=folder, help=default)


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo; the exit status is 1 where fused and unfused do not agree in float64."""
    device = options.device_of(arguments.device)
    base = QUICK if arguments.quick else GPU if device.type == "cuda" else CPU
    asked = {name: value for name in ("batch_size", "pairs", "epochs") if (value := getattr(arguments, name))}
    settings = replace(base, **asked)
    images = data.load(arguments.data, settings.image_limit)
    origin = provenance(device, arguments)
    learning = learn(images, settings, device)
    size = f"batches of {settings.batch_size} images, {settings.image_size}x{settings.image_size}, float32"
    notes = [
        learning.note,
        f"Networks: {size}{' (convolutions in tf32)' if origin.tf32 else ''}. A block's step is its forward and"
        " backward.",
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
    return 0 if learning.agrees else 1
