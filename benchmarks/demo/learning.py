"""A small ResNet learns real images, once with the standard operations and once fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from torch import nn

from fused_resnet import models

from ..data import DataSet, accuracy
from ..progress import progress
from ..result import Row
from ..trainer import Batch, Trainer
from .settings import FUSED, SIDES, UNFUSED, Settings, both_sides

AGREEMENT_LIMIT = 1e-9
_SGD: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


@dataclass(frozen=True)
class Learning:
    """What came out of training on real images; by side, where both have it.

    Attributes:
        network: what learned.
        data: from what.
        losses: mean cross entropy of every step's batch, in float32.
        test_accuracy: fraction of the test images, after the last step.
        exact: losses of a training of a few steps in float64, whose rounding is far below what a mistake would do.
    """

    network: str
    data: DataSet
    losses: dict[str, list[float]]
    test_accuracy: dict[str, float]
    exact: dict[str, list[float]]

    @property
    def difference(self) -> float:
        """The largest of the losses in float64, relative; NaN where one is."""
        unfused, fused = (torch.tensor(self.exact[side], dtype=torch.float64) for side in SIDES)
        return float(((fused - unfused) / unfused).abs().max())

    @property
    def agrees(self) -> bool:
        """False for NaN, too."""
        return self.difference <= AGREEMENT_LIMIT

    @property
    def steps(self) -> int:
        return len(self.losses[UNFUSED])

    @property
    def note(self) -> str:
        """In a sentence."""
        return (
            f"{self.network}, shortcut B, learned {self.data.name}: {len(self.data.train.labels):,} images,"
            f" {self.steps:,} steps, tested on {len(self.data.test.labels):,} other images. In float64, the"
            f" losses of {len(self.exact[UNFUSED])} steps differ by {self.difference:.1e} at most, relatively (allowed:"
            f" {AGREEMENT_LIMIT:.0e})."
        )

    @property
    def details(self) -> dict[str, Any]:
        """All losses."""
        return {"losses": self.losses, "losses in float64": self.exact}

    @property
    def rows(self) -> list[Row]:
        """A row a side; the loss is the mean of the last tenth of the steps."""
        of: Row = {"network": self.network, "part": f"after {self.steps:,} steps"}
        last = max(1, self.steps // 10)
        means = {side: fmean(self.losses[side][-last:]) for side in SIDES}
        return [{**of, "side": s, "loss": means[s], "test accuracy": 100 * self.test_accuracy[s]} for s in SIDES]


def learn(data: DataSet, settings: Settings, device: torch.device) -> Learning:
    """Trains both models from the same parameters on the same batches, in float64 for a few steps, then in float32."""
    network = f"CIFAR ResNet-{settings.depth}"
    with progress(f"{network}, float64 steps", settings.agreement_steps) as advance:
        exact, _ = _train(data, settings, device, torch.float64, settings.agreement_steps, advance)
    steps = settings.epochs * max(1, len(data.train.labels) // settings.learning_batch_size)
    with progress(f"{network}, {settings.epochs} epochs", steps) as advance:
        losses, trained = _train(data, settings, device, torch.float32, steps, advance)
    right = {side: accuracy(model, data.test.to(device)) for side, model in trained.items()}
    return Learning(network, data, losses, right, exact)


def _train(
    data: DataSet,
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    steps: int,
    advance: Callable[[], object],
) -> tuple[dict[str, list[float]], dict[str, nn.Module]]:
    """Every step's losses, and the trained models."""
    torch.manual_seed(0)
    sizes = {"num_classes": data.classes, "in_channels": data.channels}
    model = models.cifar_resnet(settings.depth, shortcut="B", fused=False, **sizes).to(device, dtype)
    trained, _ = both_sides(model.train())

    def trainer_of(network: nn.Module) -> Trainer:
        return Trainer(network, dtype, schedule=lambda done: 1 - done / steps, lr=settings.learning_rate, **_SGD)

    trainers = {side: trainer_of(network) for side, network in trained.items()}
    losses: dict[str, list[float]] = {UNFUSED: [], FUSED: []}
    for batch in islice(_batches(data.train.to(device, dtype), settings.learning_batch_size), steps):
        for side, trainer in trainers.items():
            losses[side].append(float(trainer.step(batch)))
        advance()
    return losses, trained


def _batches(images: Batch, batch_size: int) -> Iterator[Batch]:
    """Shuffled epochs without end, the same at every call; what does not fill a batch is left out of its epoch."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(images.labels), generator=generator).to(images.labels.device)
        for start in range(0, max(1, len(order) - batch_size + 1), batch_size):
            chosen = order[start : start + batch_size]
            yield Batch(images.images[chosen], images.labels[chosen])
