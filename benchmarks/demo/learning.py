"""A small ResNet learns real images, once with the standard operations and once fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fused_resnet import models

from ..data import DataSet, Images
from ..progress import progress
from ..result import Row
from ..sides import Sides, beside_fused
from .columns import SIDES
from .settings import Settings

AGREEMENT_LIMIT = 1e-9


@dataclass(frozen=True)
class Learning:
    """What came out of training on real images.

    Attributes:
        network: what learned.
        data: from what.
        losses: mean cross entropy of every step's batch, in float32.
        test_accuracy: fraction of the test images, after the last step.
        exact: losses of a training of a few steps in float64, whose rounding is far below what a mistake would do.
    """

    network: str
    data: DataSet
    losses: Sides[list[float]]
    test_accuracy: Sides[float]
    exact: Sides[list[float]]

    @property
    def difference(self) -> float:
        """The largest of the losses in float64, relative; NaN where one is."""
        unfused, fused = (torch.tensor(side, dtype=torch.float64) for side in (self.exact.unfused, self.exact.fused))
        return float(((fused - unfused) / unfused).abs().max())

    @property
    def agrees(self) -> bool:
        """False for NaN, too."""
        return self.difference <= AGREEMENT_LIMIT

    @property
    def note(self) -> str:
        """In a sentence."""
        return (
            f"{self.network}, shortcut B, learned {self.data.name}: {len(self.data.train):,} images,"
            f" {len(self.losses.unfused):,} steps, tested on {len(self.data.test):,} other images. In float64, the"
            f" losses of {len(self.exact.unfused)} steps differ by {self.difference:.1e} at most, relatively (allowed:"
            f" {AGREEMENT_LIMIT:.0e})."
        )

    @property
    def details(self) -> dict[str, Any]:
        """All losses."""
        return {"losses": asdict(self.losses), "losses in float64": asdict(self.exact)}

    @property
    def rows(self) -> list[Row]:
        """A row a side; the loss is the mean of the last tenth of the steps."""
        last = max(1, len(self.losses.unfused) // 10)
        return [
            {
                "network": self.network,
                "part": f"after {len(self.losses.unfused):,} steps",
                "side": side,
                "loss": fmean(getattr(self.losses, side)[-last:]),
                "test accuracy": 100 * getattr(self.test_accuracy, side),
            }
            for side in SIDES
        ]


def learn(data: DataSet, settings: Settings, device: torch.device) -> Learning:
    """Trains both models from the same parameters on the same batches, in float64 for a few steps, then in float32."""
    network = f"CIFAR ResNet-{settings.depth}"
    with progress(f"{network}, float64 steps", settings.agreement_steps) as advance:
        exact, _ = _train(data, settings, device, torch.float64, settings.agreement_steps, advance)
    steps = settings.epochs * max(1, len(data.train) // settings.learning_batch_size)
    with progress(f"{network}, {settings.epochs} epochs", steps) as advance:
        losses, trained = _train(data, settings, device, torch.float32, steps, advance)
    test = data.test.to(device)
    accuracy = trained.map(lambda model: _accuracy(model, test, settings.learning_batch_size))
    return Learning(network, data, losses, accuracy, exact)


def _train(
    data: DataSet,
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    steps: int,
    advance: Callable[[], object],
) -> tuple[Sides[list[float]], Sides[nn.Module]]:
    """Every step's losses, and the trained models."""
    torch.manual_seed(0)
    model = models.cifar_resnet(
        settings.depth, shortcut="B", num_classes=data.classes, in_channels=data.channels, fused=False
    )
    trained = beside_fused(model.to(device, dtype))
    step = trained.map(lambda model: _trainer(model, settings.learning_rate, steps))
    losses: Sides[list[float]] = Sides([], [])
    for batch in islice(_batches(data.train.to(device, dtype), settings.learning_batch_size), steps):
        losses.unfused.append(step.unfused(batch))
        losses.fused.append(step.fused(batch))
        advance()
    return losses, trained


def _trainer(model: nn.Module, learning_rate: float, steps: int) -> Callable[[Images], float]:
    """A function that takes one optimizer step on a batch and returns the loss ahead of it."""
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / steps)
    model.train()

    def step(batch: Images) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch.images), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        return loss.item()

    return step


def _batches(images: Images, batch_size: int) -> Iterator[Images]:
    """Shuffled epochs without end, the same at every call; what does not fill a batch is left out of its epoch."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(images), generator=generator).to(images.labels.device)
        for start in range(0, max(1, len(order) - batch_size + 1), batch_size):
            chosen = order[start : start + batch_size]
            yield Images(images.images[chosen], images.labels[chosen])


@torch.inference_mode()
def _accuracy(model: nn.Module, test: Images, batch_size: int) -> float:
    model.eval()
    starts = range(0, len(test), batch_size)
    predicted = torch.cat([model(test.images[start : start + batch_size]).argmax(1) for start in starts])
    return float((predicted == test.labels).double().mean())
