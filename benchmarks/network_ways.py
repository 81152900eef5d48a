"""The ways in which a whole network is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fused_resnet

Forward = Callable[[Tensor], Tensor]

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


def forward(way: str, network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> Forward:
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
