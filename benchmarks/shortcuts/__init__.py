"""Compares the ways a shortcut can cross a change of shape, in one small network.

A deep CIFAR ResNet without shortcuts, without those that cross a change of
shape, and with options A, B and frozen B for these, learns MNIST digits for a
few steps, from several seeds. The norm of the gradient at every block is
taken ahead of the first step and after the last. Two pictures, which
docs/faq.md shows, and a JSON file with everything go to the output folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .. import data
from ..json_file import write
from ..provenance import provenance
from . import plot
from .experiment import Results, Settings, run_all
from .summary import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options."""
    default = Settings()
    parser.add_argument("--depth", type=int, metavar="N", default=default.depth, help="6n + 2; default: %(default)s")
    parser.add_argument("--steps", type=int, metavar="N", default=default.steps, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, metavar="N", default=default.seeds, help="default: %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=Path(__file__).parents[2] / "docs" / "figures",
        help="default: docs/figures in the repository",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the comparison."""
    settings = Settings(depth=arguments.depth, steps=arguments.steps, seeds=arguments.seeds)
    images = data.load(None, None)
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = Results(provenance(torch.device("cpu"), arguments), settings, images.name, run_all(images, settings))
    write(results, arguments.output / "shortcuts.json")
    plot.draw_gradients(results, arguments.output / "gradients.svg")
    plot.draw_losses(results, arguments.output / "losses.svg")
    print(summary(results.runs))
    print(f"\nWritten to {arguments.output}: shortcuts.json, gradients.svg, losses.svg")
    return 0
