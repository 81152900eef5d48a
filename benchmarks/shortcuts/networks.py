"""The networks that are compared: one CIFAR ResNet, its shortcuts exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
