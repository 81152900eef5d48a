"""Shows what fused tails do, against the same models unfused.

A small ResNet learns real images, both ways. ResNet-18 and ResNet-50 are
timed in training and evaluation, their saved activations counted and their
results compared with float64. Tables go to standard output, a picture and a
JSON file with everything to the output folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from .. import data
from ..json_file import write
from ..options import at_least, device_of
from ..provenance import provenance
from . import plot, settings
from .blocks import measure_blocks
from .learning import AGREEMENT_LIMIT, learn
from .networks import NETWORKS, measure
from .results import Results
from .settings import Settings
from .summary import summary

_BLOCKS_OF = "ResNet-50"


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
        "--batch-size", type=at_least(1), metavar="N", help="of the timed networks; default: 16, 64 on a GPU"
    )
    parser.add_argument("--pairs", type=at_least(2), metavar="N", help="timed pairs of each network")
    parser.add_argument("--epochs", type=at_least(1), metavar="N", help="of learning")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=Path(__file__).parents[1] / "results",
        help="default: benchmarks/results in the repository",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo; the exit status is 1 where fused and unfused do not agree in float64."""
    device = device_of(arguments.device)
    chosen = _settings(arguments, device)
    images = data.load(arguments.data, chosen.image_limit)
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = Results(
        provenance(device, arguments),
        chosen,
        learn(images, chosen, device),
        {name: measure(name, chosen, device) for name in NETWORKS},
        _BLOCKS_OF,
        measure_blocks(_BLOCKS_OF, chosen, device),
    )
    file = arguments.output / f"demo-{'quick-' if arguments.quick else ''}{device.type}"
    write(results, file.with_suffix(".json"))
    plot.draw(results, file.with_suffix(".png"))
    print(summary(results))
    print(f"\nWritten: {file}.json, {file}.png")
    if not results.learning.float64.holds:
        print(f"benchmarks: fused and unfused losses differ by more than {AGREEMENT_LIMIT:g}", file=sys.stderr)
        return 1
    return 0


def _settings(arguments: argparse.Namespace, device: torch.device) -> Settings:
    base = settings.QUICK if arguments.quick else settings.GPU if device.type == "cuda" else settings.CPU
    asked = {name: getattr(arguments, name) for name in ("batch_size", "pairs", "epochs")}
    return replace(base, **{name: value for name, value in asked.items() if value is not None})
