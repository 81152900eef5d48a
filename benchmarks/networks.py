"""Whole networks by name: this package's, torchvision's and timm's, all with the standard operations."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable
from functools import partial

from torch import nn

from fused_resnet import models
from fused_resnet.nn import Bottleneck

_CIFAR = ("resnet20", "resnet56", "resnet110")
_LIBRARIES = ("torchvision", "timm")
Maker = Callable[[], nn.Module]
OWN: dict[str, Maker] = {
    **{
        name: partial(getattr(models, name), fused=False)
        for name in (
            *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
            *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d"),
        )
    },
    **{
        f"{name}-{shortcut}": partial(getattr(models, name), shortcut=shortcut, fused=False)
        for name in _CIFAR
        for shortcut in ("A", "B")
    },
}
# For smoke runs: a block of each kind.
TINY = "tiny"
OWN[TINY] = partial(models.ResNet, Bottleneck, (1, 1, 1, 1), width=16, num_classes=10, fused=False)
EXPECTED = f"{', '.join(OWN)}, or one of {' or '.join(f'{library}:NAME' for library in _LIBRARIES)}"


class UnavailableError(Exception):
    """A library is not there, or has no such model."""


def names(text: str) -> list[str]:
    """An argument's type: names of networks, separated by commas; a library need not be installed."""
    asked = text.split(",")
    unknown = [name for name in asked if name not in OWN and not _of_library(name)]
    if unknown:
        raise argparse.ArgumentTypeError(f"is {', '.join(unknown)}, expected some of {EXPECTED}")
    return asked


def make(name: str) -> nn.Module:
    """The network that `names` took, with random parameters.

    Raises:
        UnavailableError: it is a library's, which cannot give it.
    """
    if name in OWN:
        return OWN[name]()
    library, _, model = name.partition(":")
    try:
        return _make_of_library(library, model)
    except (ImportError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"{name}: {str(error).splitlines()[0]}") from error


def image_size(name: str) -> int:
    """Height and width of the images that the network was made for."""
    return 32 if name.startswith(_CIFAR) else 224


def blocks(network: nn.Module) -> list[str]:
    """Names of the residual blocks, where they are named as torchvision's are."""
    return [name for name, _ in network.named_modules() if re.fullmatch(r"layer\d+\.\d+", name)]


def _of_library(name: str) -> bool:
    library, _, model = name.partition(":")
    return library in _LIBRARIES and bool(model)


def _make_of_library(library: str, model: str) -> nn.Module:
    # timm imports torchvision, too.
    importlib.import_module("benchmarks.torchvision_operators")
    made: nn.Module
    if library == "torchvision":
        made = importlib.import_module("torchvision.models").get_model(model)
    else:
        made = importlib.import_module("timm").create_model(model)
    return made
