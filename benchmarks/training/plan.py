"""Which network is trained on which batches in which ways, by default and as the command line asks."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from .. import network_ways, networks, options
from .job import Job


@dataclass(frozen=True)
class Defaults:
    """What is run on a device unless the command line says otherwise.

    Attributes:
        compiled_batches: those on which ways with torch.compile are run, too.
        size: None for a network's own.
    """

    models: tuple[str, ...]
    batches: tuple[int, ...]
    compiled_batches: tuple[int, ...]
    size: int | None
    steps: int
    in_a_row: int
    seconds: float


CPU = Defaults(("resnet18", "resnet50"), (8, 16), (8, 16), None, steps=7, in_a_row=1, seconds=900.0)
GPU = Defaults(
    ("resnet18", "resnet50", "torchvision:resnet50", "timm:resnet50d"),
    (64, 128, 256),
    (64, 256),
    None,
    steps=30,
    in_a_row=5,
    seconds=1800.0,
)
# Compiling takes too long for a smoke run.
QUICK = Defaults((networks.TINY,), (4, 8), (), 64, steps=2, in_a_row=1, seconds=120.0)


def jobs(arguments: argparse.Namespace, device: torch.device) -> list[Job]:
    """One for each network and batch."""
    defaults = QUICK if arguments.quick else GPU if device.type == "cuda" else CPU
    dtype = options.dtype_of(arguments.dtype, device)
    return [
        Job(
            model=model,
            ways=_ways(arguments, defaults, batch),
            batch=batch,
            size=arguments.size or defaults.size or networks.image_size(model),
            device=device.type,
            dtype=str(dtype).removeprefix("torch."),
            backend=arguments.backend,
            steps=arguments.steps or defaults.steps,
            in_a_row=defaults.in_a_row,
            seconds=seconds(arguments, device),
            index=device.index or 0,
            evaluation=arguments.evaluation,
        )
        for model in arguments.models or defaults.models
        for batch in sorted(set(arguments.batches or defaults.batches))
    ]


def seconds(arguments: argparse.Namespace, device: torch.device) -> float:
    """For the whole run."""
    defaults = QUICK if arguments.quick else GPU if device.type == "cuda" else CPU
    return float(arguments.seconds or defaults.seconds)


def _ways(arguments: argparse.Namespace, defaults: Defaults, batch: int) -> list[str]:
    """Compiling takes longest: by default not for every batch."""
    if arguments.ways:
        return sorted(set(arguments.ways), key=network_ways.WAYS.index)
    everything = arguments.batches is not None or batch in defaults.compiled_batches
    return [way for way in network_ways.USUAL if everything or not network_ways.compiles(way)]
