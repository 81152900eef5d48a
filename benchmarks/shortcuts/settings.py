"""What the study compares, one CIFAR ResNet with its shortcuts exchanged, and how much it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import nn

from fused_resnet import models
from fused_resnet.nn import NoShortcut, ResidualBlock, Shortcut, ZeroPadShortcut


@dataclass(frozen=True)
class Option:
    """A way to have shortcuts.

    Attributes:
        shortcut: of the package's blocks.
        description: for people.
        preactivation: with pre-activation blocks.
        leaves_out: none in the blocks that change the shape.
    """

    shortcut: Shortcut
    description: str
    preactivation: bool = False
    leaves_out: bool = False


OPTIONS = {
    "none": Option("none", "no shortcut at all"),
    "identity only": Option("A", "none where the shape changes", leaves_out=True),
    "A": Option("A", "zeros appended"),
    "B": Option("B", "projection"),
    "frozen B": Option("frozen", "projection, W_s never trained"),
    "C": Option("C", "projections in all blocks"),
    "D": Option("D", "average pool, projection"),
    "v2": Option("B", "pre-activation, projection", preactivation=True),
}


def build(option: str, depth: int, **sizes: Any) -> nn.Module:
    """A CIFAR ResNet of `depth` = 6n + 2 layers with one of `OPTIONS`; `sizes` go to `models.cifar_resnet`."""
    chosen = OPTIONS[option]
    network = models.cifar_resnet(depth, shortcut=chosen.shortcut, preactivation=chosen.preactivation, **sizes)
    for block in blocks_of(network) if chosen.leaves_out else []:
        if isinstance(block.downsample, ZeroPadShortcut):
            block.downsample = NoShortcut()
    return network


def blocks_of(network: nn.Module) -> list[ResidualBlock]:
    """First block first."""
    return [module for module in network.modules() if isinstance(module, ResidualBlock)]


class Job(NamedTuple):
    """One training."""

    option: str
    depth: int
    seed: int

    @property
    def file(self) -> str:
        return f"{self.option.replace(' ', '-')}-{self.depth}-{self.seed}.json"


@dataclass(frozen=True)
class Settings:
    """What is trained, on how much, how long.

    Attributes:
        options: names among `OPTIONS`.
        depths: of the CIFAR ResNets, 6n + 2.
        seeds: so many runs of each option and depth. A seed draws the training images and the order and shifts of the
            batches, the same for all options, and the weights.
        steps: of SGD with Nesterov's momentum; the learning rate rises linearly over the first tenth of them and then
            falls linearly to zero.
        train_images, test_images: at most so many, None for all; training images are drawn anew for each seed from what
            is not for testing, test images are the same for all.
        probe: training images whose gradients are taken.
    """

    options: tuple[str, ...] = tuple(OPTIONS)
    depths: tuple[int, ...] = (8, 20, 32)
    seeds: int = 10
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    train_images: int | None = 300
    test_images: int | None = 4000
    probe: int = 256


CPU = Settings()
GPU = replace(CPU, depths=(20, 56, 110), steps=3000, batch_size=128, train_images=None, test_images=None)
QUICK = replace(CPU, depths=(8,), seeds=2, steps=4, batch_size=16, train_images=40, test_images=60, probe=16)
