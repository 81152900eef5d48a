"""What the networks learn: few digits that are never in the same place, or CIFAR with its usual augmentation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import data
from ..data import DataSet
from ..errors import UserError
from ..trainer import Batch
from .settings import Settings

_DIGIT_CROP = 20  # of 28x28 pixels: digits of up to 20x20 lose up to 4 at a border
_CIFAR_PADDING = 4


@dataclass(frozen=True)
class Task:
    """Images to learn from and to be tested on.

    Attributes:
        name: for people.
        classes: labels are below it.
        train: of a size from which `size` is cropped at random, anew in each batch.
        test: cropped, the same for every network.
        size: height and width of what a network sees.
        flips: whether training images are mirrored at random.
    """

    name: str
    classes: int
    train: Batch
    test: Batch
    size: int
    flips: bool

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    def to(self, device: torch.device) -> Task:
        """On another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def drawn(self, count: int | None, seed: int) -> Task:
        """The task with so many of its training images."""
        order = torch.randperm(len(self.train.labels), generator=torch.Generator().manual_seed(seed))[:count]
        return replace(self, train=Batch(self.train.images[order], self.train.labels[order]))

    def batch(self, count: int, generator: torch.Generator) -> Batch:
        """Training images, drawn with replacement, cropped and mirrored at random; channels_last."""
        index = torch.randint(len(self.train.labels), (count,), generator=generator)
        images = random_crops(self.train.images[index], self.size, generator)
        if self.flips:
            mirrored = torch.rand(count, generator=generator).lt(0.5).to(images.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return Batch(images, self.train.labels[index])


def load(path: Path | None, settings: Settings) -> Task:
    """MNIST, or what `data.load` takes.

    Raises:
        UserError: the file or folder cannot be used, or has too few images.
    """
    found = data.load(path, None, tests=settings.test_images if path is None else None)
    task = _digits(found) if path is None else _padded(found, flips=path.is_dir())
    if len(task.train.labels) < (settings.train_images or 1):
        raise UserError(
            f"{found.name} has {len(task.train.labels)} images to train on, expected {settings.train_images}"
        )
    return task


def _digits(found: DataSet) -> Task:
    test = random_crops(found.test.images, _DIGIT_CROP, torch.Generator().manual_seed(0))
    return Task(
        f"{found.name}, shifted by up to 4 pixels",
        found.classes,
        found.train,
        Batch(test, found.test.labels),
        _DIGIT_CROP,
        flips=False,
    )


def _padded(found: DataSet, flips: bool) -> Task:
    """Crops of images padded with zeros, as in the paper's section 4.2."""
    padded = Batch(F.pad(found.train.images, [_CIFAR_PADDING] * 4), found.train.labels)
    return Task(found.name, found.classes, padded, found.test, found.test.images.shape[-1], flips)


def random_crops(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A square of each of the images (N, C, H, W), anywhere within it: (N, C, size, size), channels_last."""
    count, _, height, width = images.shape
    rows, columns = (_places(count, extent, size, generator).to(images.device) for extent in (height, width))
    which = torch.arange(count, device=images.device)
    # Indices on both sides of a slice: its dimension comes last.
    return images[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _places(count: int, extent: int, size: int, generator: torch.Generator) -> Tensor:
    """`size` consecutive indices below `extent`, for each of `count` images."""
    return torch.randint(extent - size + 1, (count, 1), generator=generator) + torch.arange(size)
