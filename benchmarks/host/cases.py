"""What is called: tails and blocks, so small that a CPU computes them in no time."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fused_resnet
from fused_resnet.nn import Bottleneck

from ..sides import Sides
from ..tail_shapes import DistinctTail, distinct, small_of_each_kind
from ..tails import Tail

# Channels of a block's 3x3 convolution.
_WIDTH = 8
CALLS = 8


@dataclass(frozen=True)
class Case:
    """One row: as many calls of either side, on inputs of their own.

    Attributes:
        autocast: the dtype that autocast gives, None without.
        calls: of either side, without arguments.
        leaves: whatever gets a gradient.
    """

    what: str
    kind: str
    autocast: torch.dtype | None
    calls: Sides[list[Callable[[], Tensor]]]
    leaves: list[Tensor]


def cases(device: torch.device) -> tuple[list[Case], list[str]]:
    """All cases, and which could not be made."""
    found: list[Case] = []
    for tail in small_of_each_kind(distinct(("resnet50", "resnet18", "resnet20"))):
        found += [_tail_case(tail, autocast, device) for autocast in (None, torch.bfloat16)]
    missing = []
    for what, make in (("own block", _own), ("torchvision block", _of_torchvision)):
        try:
            found += list(_block_cases(what, make, device))
        except ImportError as error:
            missing.append(f"No {what}: {error}.")
    return found, missing


def _tail_case(tail: DistinctTail, autocast: torch.dtype | None, device: torch.device) -> Case:
    calls: Sides[list[Callable[[], Tensor]]] = Sides([], [])
    leaves: list[Tensor] = []
    for _ in range(CALLS):
        # Activations are in half precision already, where autocast is on; parameters are not.
        made = Tail(tail.shape, torch.float32).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x, before = (t.to(autocast or t.dtype).detach().requires_grad_() for t in made.inputs(device, torch.float32))
        calls.unfused.append(functools.partial(made, x, before))
        calls.fused.append(functools.partial(made.fused, x, before))
        leaves += [x, before, *made.parameters()]
    return Case("tail", tail.shape.kind, autocast, calls, leaves)


def _block_cases(what: str, make: Callable[[bool], nn.Module], device: torch.device) -> Iterator[Case]:
    for changes in (True, False):
        kind = "projection+projection" if changes else "projection+identity"
        for autocast in (None, torch.bfloat16):
            calls: Sides[list[Callable[[], Tensor]]] = Sides([], [])
            leaves: list[Tensor] = []
            for _ in range(CALLS):
                block = make(changes).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                fused = copy.deepcopy(block)
                fused_resnet.fuse(fused)
                fused_resnet.unfuse(block)
                x = torch.randn(2, _WIDTH if changes else 4 * _WIDTH, 2, 2, device=device, dtype=autocast)
                x = x.to(memory_format=torch.channels_last).requires_grad_()
                calls.unfused.append(functools.partial(block, x))
                calls.fused.append(functools.partial(fused, x))
                leaves += [x, *block.parameters(), *fused.parameters()]
            yield Case(what, kind, autocast, calls, leaves)


def _own(changes_shape: bool) -> nn.Module:
    return Bottleneck(_WIDTH if changes_shape else 4 * _WIDTH, _WIDTH, shortcut="C" if changes_shape else "B")


def _of_torchvision(changes_shape: bool) -> nn.Module:
    importlib.import_module("benchmarks.torchvision_operators")
    resnet: Any = importlib.import_module("torchvision.models.resnet")
    channels = 4 * _WIDTH
    if not changes_shape:
        return resnet.Bottleneck(channels, _WIDTH)  # type: ignore[no-any-return]
    downsample = nn.Sequential(nn.Conv2d(_WIDTH, channels, 1, bias=False), nn.BatchNorm2d(channels))
    return resnet.Bottleneck(_WIDTH, _WIDTH, downsample=downsample)  # type: ignore[no-any-return]
