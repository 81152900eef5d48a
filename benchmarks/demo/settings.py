"""How much the demo does, on which two sides, and its table: a row is a network or one of its blocks on one side."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import nn

import fused_resnet
from fused_resnet.fusion import FusionReport

from ..result import Column

UNFUSED, FUSED = SIDES = ("unfused", "fused")
WHOLE = "whole network"
COLUMNS = [
    Column("network", "key"),
    Column("part", "key"),
    Column("side", "key"),
    Column("step", "measured", "ms", "lower"),
    Column("step / unfused", "measured", "", "lower"),
    Column("evaluation", "measured", "ms", "lower"),
    Column("evaluation / unfused", "measured", "", "lower"),
    Column("saved", "counted", "B", "lower"),
    Column("saved / unfused", "counted", "", "lower"),
    Column("fused tails", "counted"),
    Column("refused tails", "counted"),
    Column("output error", "measured", "", "lower", shown=False),
    Column("gradient error", "measured", "", "lower"),
    Column("evaluation error", "measured", "", "lower", shown=False),
    Column("loss", "measured", "", "lower"),
    Column("test accuracy", "measured", "%", "higher"),
]


@dataclass(frozen=True)
class Settings:
    """Sizes of everything that is run.

    Attributes:
        depth: layers of the CIFAR ResNet that learns.
        image_limit: use at most so many images of the data set; None for all.
        epochs, learning_batch_size, learning_rate: of its training; the rate falls linearly to zero.
        agreement_steps: training steps in float64 whose losses must agree.
        batch_size, image_size: what the ImageNet networks are timed on and their saved activations counted.
        pairs: timed pairs of a whole network; half as many of a single block.
        warm_up: untimed pairs ahead of them.
        accuracy_batch_size: images of ``image_size`` on which the networks are compared with float64.
    """

    depth: int = 14
    image_limit: int | None = None
    epochs: int = 6
    learning_batch_size: int = 128
    learning_rate: float = 0.1
    agreement_steps: int = 5
    batch_size: int = 16
    image_size: int = 224
    pairs: int = 14
    warm_up: int = 2
    accuracy_batch_size: int = 4


CPU = Settings()
GPU = replace(CPU, epochs=20, batch_size=64, pairs=40, warm_up=5, accuracy_batch_size=16)
_SMALL = {"batch_size": 2, "image_size": 64, "pairs": 2, "warm_up": 1, "accuracy_batch_size": 2}
QUICK = Settings(depth=8, image_limit=160, epochs=1, learning_batch_size=32, **_SMALL)


def both_sides(model: nn.Module) -> tuple[dict[str, nn.Module], FusionReport]:
    """A standard model beside a copy that `fused_resnet.fuse` has fused."""
    fused = copy.deepcopy(model)
    report = fused_resnet.fuse(fused)
    return {UNFUSED: model, FUSED: fused}, report
