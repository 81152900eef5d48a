"""What is called: tails and blocks, so small that a CPU computes them in no time."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fused_resnet
from fused_resnet.nn import Bottleneck

from ..memory_formats import in_format
from ..tail_shapes import distinct, small_of_each_kind
from ..tails import Tail

SIDES = ("unfused", "fused")
# Channels of a block's 3x3 convolution.
_WIDTH = 8
CALLS = 8


@dataclass(frozen=True)
class Case:
    """One row: as many calls of either side, on inputs of their own.

    Attributes:
        autocast: the dtype that autocast gives, None without.
        calls: of each side, without arguments.
        leaves: whatever gets a gradient.
    """

    what: str
    kind: str
    autocast: torch.dtype | None
    calls: dict[str, list[Callable[[], Tensor]]] = field(default_factory=lambda: {side: [] for side in SIDES})
    leaves: list[Tensor] = field(default_factory=list)

    def add(self, leaves: list[Tensor], unfused: Callable[[], Tensor], fused: Callable[[], Tensor]) -> None:
        self.leaves.extend(leaves)
        self.calls["unfused"].append(unfused)
        self.calls["fused"].append(fused)


def cases(device: torch.device) -> tuple[list[Case], list[str]]:
    """All cases, and which could not be made."""
    found, missing = list(_tail_cases(device)), []
    for what, make in (("own block", _own), ("torchvision block", _of_torchvision)):
        try:
            found += list(_block_cases(what, make, device))
        except ImportError as error:
            missing.append(f"No {what}: {error}.")
    return found, missing


def _tail_cases(device: torch.device) -> Iterator[Case]:
    for tail in small_of_each_kind(distinct(("resnet50", "resnet18", "resnet20"))):
        for autocast in (None, torch.bfloat16):
            case = Case("tail", tail.shape.kind, autocast)
            for _ in range(CALLS):
                # Activations are in half precision already, where autocast is on; parameters are not.
                made = in_format(Tail(tail.shape, torch.float32).to(device))
                inputs = [t.to(autocast or t.dtype).requires_grad_() for t in made.inputs(device, torch.float32)]
                case.add([*inputs, *made.parameters()], partial(made, *inputs), partial(made.fused, *inputs))
            yield case


def _block_cases(what: str, make: Callable[[bool], nn.Module], device: torch.device) -> Iterator[Case]:
    for changes in (True, False):
        for autocast in (None, torch.bfloat16):
            case = Case(what, "projection+projection" if changes else "projection+identity", autocast)
            for _ in range(CALLS):
                block = in_format(make(changes).to(device))
                fused = copy.deepcopy(block)
                fused_resnet.fuse(fused)
                fused_resnet.unfuse(block)
                x = torch.randn(2, _WIDTH if changes else 4 * _WIDTH, 2, 2, device=device, dtype=autocast)
                x = x.to(memory_format=torch.channels_last).requires_grad_()
                case.add([x, *block.parameters(), *fused.parameters()], partial(block, x), partial(fused, x))
            yield case


def _own(changes_shape: bool) -> nn.Module:
    return Bottleneck(_WIDTH if changes_shape else 4 * _WIDTH, _WIDTH, shortcut="C" if changes_shape else "B")


def _of_torchvision(changes_shape: bool) -> nn.Module:
    importlib.import_module("benchmarks.torchvision_operators")
    resnet: Any = importlib.import_module("torchvision.models.resnet")
    channels = 4 * _WIDTH
    block: nn.Module = resnet.Bottleneck(channels, _WIDTH)
    if changes_shape:
        downsample = nn.Sequential(nn.Conv2d(_WIDTH, channels, 1, bias=False), nn.BatchNorm2d(channels))
        block = resnet.Bottleneck(_WIDTH, _WIDTH, downsample=downsample)
    return block
