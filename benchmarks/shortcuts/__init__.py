"""The study of shortcuts: do they help, which kind, and is it the training?

CIFAR ResNets of several depths, without shortcuts and with each kind of them,
learn the same few images from several seeds. Compared are test accuracy (a
paired test over the seeds), the gradient's norm along the depth, parameters,
saved activations and the time of a training step. docs/shortcuts.md tells
what came out.

A study that was stopped goes on where it was: each training is kept below
--work as soon as it has ended.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import options
from ..provenance import provenance
from .contrasts import contrast_table
from .cost import measure_costs
from .outcome import contrasts_of, result_of
from .pool import Study, run_all
from .settings import CPU, GPU, OPTIONS, QUICK, Settings
from .task import load

_WORK = Path(__file__).parents[2] / "build" / "shortcuts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the study's options."""
    options.add_arguments(parser, quick="under a minute")
    names = ", ".join(OPTIONS)
    parser.add_argument(
        "--options",
        type=options.one_or_more_of(list(OPTIONS)),
        metavar="NAME,...",
        help=f"some of {names}; default: all",
    )
    for name, parse, what in (
        ("depths", _depths, "6n + 2 each; default: {}, on a GPU {}"),
        ("seeds", options.at_least(2), "runs of each option and depth; default: {}"),
        ("steps", options.at_least(1), "of a training; default: {}, on a GPU {}"),
        ("train-images", options.at_least(1), "drawn anew for each seed; default: {}, on a GPU {}"),
    ):
        defaults = [_readable(getattr(base, name.replace("-", "_"))) for base in (CPU, GPU)]
        parser.add_argument(f"--{name}", type=parse, metavar="N", help=what.format(*defaults))
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="in place of MNIST: the folder that holds cifar-10-batches-py or cifar-100-python, or an .npz file",
    )
    parser.add_argument(
        "--jobs", type=options.at_least(1), metavar="N", help="trainings at a time; default: one a core"
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", default=_WORK, help="default: build/shortcuts")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier, stopped study has trained")


def _readable(default: object) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else "all" if default is None else str(default)


def run(arguments: argparse.Namespace) -> int:
    """Runs the study, or the rest of it."""
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    dtype = options.dtype_of(arguments.dtype, device)
    settings = _settings(arguments, device)
    task = load(arguments.data, settings)
    study = Study(settings, arguments.data, str(device), str(dtype).removeprefix("torch."))
    if arguments.fresh:
        shutil.rmtree(study.folder(arguments.work), ignore_errors=True)
    origin = provenance(device, arguments)
    costs = measure_costs(task.to(device), settings, device, dtype, **({"runs": 2} if arguments.quick else {}))
    runs = run_all(study, arguments.work, arguments.jobs or (1 if device.type == "cuda" else origin.cores))
    result = result_of(origin, settings, task.name, runs, costs)
    options.finish(result, arguments)
    print(f"\n{contrast_table(contrasts_of(result))}")
    return 0


def _settings(arguments: argparse.Namespace, device: torch.device) -> Settings:
    base = QUICK if arguments.quick else GPU if device.type == "cuda" else CPU
    asked = {name: getattr(arguments, name) for name in ("options", "depths", "seeds", "steps", "train_images")}
    chosen: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in asked.items() if v is not None
    }
    return replace(base, **chosen)


def _depths(text: str) -> list[int]:
    depths = [int(part) for part in text.split(",")]
    if any(depth < 8 or (depth - 2) % 6 for depth in depths):
        raise argparse.ArgumentTypeError(f"is {text}, expected numbers 6n + 2: 8, 14, 20, ...")
    return depths
