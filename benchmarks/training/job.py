"""What one process of the benchmark has to do, by default and as the command line asks."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace

import torch

from fused_resnet.backend import BackendChoice

from .. import networks, options


@dataclass(frozen=True)
class Job:
    """A network to train on batches of one size.

    Attributes:
        model, ways: as `networks.names` and `networks.WAYS` have them.
        batch, size: images, and their height and width.
        device, dtype: "cuda" or "cpu"; other dtypes than "float32" by autocast.
        backend: of `fused_resnet.use_backend`.
        steps: timed, of each way.
        in_a_row: steps of a way before the next way's turn.
        seconds: no turn begins later.
        index: of the GPU.
        evaluation: forward passes in evaluation in place of training steps.
        search_from: the largest batch that fits is searched from here; 0 where it is not.
    """

    model: str
    ways: list[str]
    batch: int
    size: int
    device: str
    dtype: str
    backend: BackendChoice
    steps: int
    in_a_row: int
    seconds: float
    index: int = 0
    evaluation: bool = False
    search_from: int = 0

    def without(self, way: str) -> Job:
        return replace(self, ways=[other for other in self.ways if other != way])

    def text(self) -> str:
        """For the process's command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Defaults:
    """What is run on a device unless the command line says otherwise; compiling takes too long for every batch."""

    models: tuple[str, ...]
    batches: tuple[int, ...]
    compiled_batches: tuple[int, ...]
    size: int | None
    steps: int
    in_a_row: int
    seconds: float


CPU = Defaults(("resnet18", "resnet50"), (8, 16), (8, 16), None, steps=7, in_a_row=1, seconds=900.0)
_GPU_MODELS = ("resnet18", "resnet50", "torchvision:resnet50", "timm:resnet50d")
GPU = Defaults(_GPU_MODELS, (64, 128, 256), (64, 256), None, steps=30, in_a_row=5, seconds=1800.0)
QUICK = Defaults((networks.TINY,), (4, 8), (), 64, steps=2, in_a_row=1, seconds=120.0)


def defaults_of(arguments: argparse.Namespace, device: torch.device) -> Defaults:
    return QUICK if arguments.quick else GPU if device.type == "cuda" else CPU


def jobs(arguments: argparse.Namespace, device: torch.device) -> list[Job]:
    """One for each network and batch."""
    defaults = defaults_of(arguments, device)
    return [
        Job(
            model=model,
            ways=_ways(arguments, defaults, batch),
            batch=batch,
            size=arguments.size or defaults.size or networks.image_size(model),
            device=device.type,
            dtype=options.name_of(options.dtype_of(arguments.dtype, device)),
            backend=arguments.backend,
            steps=arguments.steps or defaults.steps,
            in_a_row=defaults.in_a_row,
            seconds=float(arguments.seconds or defaults.seconds),
            index=device.index or 0,
            evaluation=arguments.evaluation,
        )
        for model in arguments.models or defaults.models
        for batch in sorted(set(arguments.batches or defaults.batches))
    ]


def _ways(arguments: argparse.Namespace, defaults: Defaults, batch: int) -> list[str]:
    if arguments.ways:
        return sorted(set(arguments.ways), key=networks.WAYS.index)
    everything = arguments.batches is not None or batch in defaults.compiled_batches
    return [way for way in networks.USUAL if everything or not networks.compiles(way)]


def searches(timed: list[Job]) -> list[Job]:
    """The largest batch of each network and way, from the largest that is timed, what is not compiled first."""
    last = {job.model: job for job in timed}
    ways = {model: {way for job in timed if job.model == model for way in job.ways} for model in last}
    return [
        replace(job, ways=[way], search_from=job.batch)
        for way in networks.WAYS
        for model, job in last.items()
        if way in ways[model]
    ]
