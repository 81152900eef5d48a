"""Whole networks by name, this package's, torchvision's and timm's, and the ways in which one is run."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fused_resnet
from fused_resnet import models
from fused_resnet.nn import Bottleneck

_CIFAR = ("resnet20", "resnet56", "resnet110")
_OTHERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_WIDE = ("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d")
_LIBRARIES = ("torchvision", "timm")
# All with the standard operations.
OWN: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(getattr(models, name), fused=False) for name in (*_OTHERS, *_WIDE)},
    **{f"{n}-{s}": partial(getattr(models, n), shortcut=s, fused=False) for n in _CIFAR for s in ("A", "B")},
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
    if unknown := [name for name in asked if name not in OWN and not _of_library(name)]:
        raise argparse.ArgumentTypeError(f"is {', '.join(unknown)}, expected some of {EXPECTED}")
    return asked


def _of_library(name: str) -> bool:
    library, _, model = name.partition(":")
    return library in _LIBRARIES and bool(model)


def make(name: str) -> nn.Module:
    """The network that `names` took, with random parameters.

    Raises:
        UnavailableError: it is a library's, which cannot give it.
    """
    if name in OWN:
        return OWN[name]()
    library, _, model = name.partition(":")
    try:
        importlib.import_module("benchmarks.torchvision_operators")  # timm imports torchvision, too
        module: Any = importlib.import_module("torchvision.models" if library == "torchvision" else "timm")
        made: nn.Module = (module.get_model if library == "torchvision" else module.create_model)(model)
    except (ImportError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"{name}: {str(error).splitlines()[0]}") from error
    return made


def image_size(name: str) -> int:
    """Height and width of the images that the network was made for."""
    return 32 if name.startswith(_CIFAR) else 224


def blocks(network: nn.Module) -> list[str]:
    """Names of the residual blocks, where they are named as torchvision's are."""
    return [name for name, _ in network.named_modules() if re.fullmatch(r"layer\d+\.\d+", name)]


EAGER, COMPILE, FUSED, FUSED_COMPILE = "eager", "compile", "fused", "fused+compile"
# All batch norms fused; and their outputs computed again in backward.
NORMS, RECOMPUTE = "norms", "recompute"
# What is compared where nothing else is asked for, and all that can be.
USUAL = (EAGER, FUSED, COMPILE, FUSED_COMPILE)
WAYS = (EAGER, FUSED, NORMS, RECOMPUTE, COMPILE, FUSED_COMPILE)
# In pictures.
COLOURS = {EAGER: "sky", FUSED: "red", NORMS: "pink", RECOMPUTE: "green", COMPILE: "grey", FUSED_COMPILE: "orange"}


def fuses(way: str) -> bool:
    """Whether `fused_resnet.fuse` is part of the way."""
    return way in (FUSED, NORMS, RECOMPUTE, FUSED_COMPILE)


def compiles(way: str) -> bool:
    """Whether torch.compile is part of the way."""
    return way in (COMPILE, FUSED_COMPILE)


def forward(way: str, network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> Callable[[Tensor], Tensor]:
    """How the way computes the network, which it may change in place; `backend` is torch.compile's.

    Raises:
        RuntimeError: no tail of the network can be fused.
    """
    if fuses(way):
        report = fused_resnet.fuse(network, norms=way == NORMS, recompute=way == RECOMPUTE)
        if not report.fused:
            raise RuntimeError(f"0 tails are fused; refused: {dict(report.refused)}")
    # The sizes do not change.
    return torch.compile(network, backend=backend, dynamic=False) if compiles(way) else network
