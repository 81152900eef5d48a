"""What a network saves in one way, on tensors that have sizes alone: exact, and nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._inductor.compile_fx import compile_fx
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_resnet

from .. import emulator, networks
from ..saved_activations import saved_bytes, saved_bytes_by_module


@dataclass(frozen=True)
class Conditions:
    """How a training step's forward pass runs; without a size, images have the one that a network was made for."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    size: int | None

    def images(self, network: str) -> Tensor:
        """A batch on the default device, float32 as autocast is given it."""
        size = self.size or networks.image_size(network)
        return torch.randn(self.batch, 3, size, size)

    def precision(self) -> Any:
        """Autocast, where the dtype asks for it."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)


@dataclass(frozen=True)
class Saved:
    """Bytes that a network saves, those of which each block was the first to save, and its tails."""

    total: int
    blocks: dict[str, int]
    fused_tails: int
    refused_tails: int


def count(name: str, way: str, conditions: Conditions, by_block: bool) -> Saved:
    """Counts one of `networks.names` in one of `networks.WAYS`; a compiled network is one graph and has no blocks.

    Raises:
        networks.UnavailableError: its library cannot give it.
        Exception: whatever torch.compile raises.
    """
    torch._dynamo.reset()
    with FakeTensorMode(), torch.device(conditions.device), conditions.precision(), kernels(conditions.device):
        network = networks.make(name).train()
        images = conditions.images(name)
        tails = fused_resnet.fuse(network, dry_run=True)
        forward = networks.forward(way, network, _without_code)
        total = saved_bytes(network, images, forward)
        wanted = networks.blocks(network) if by_block and not networks.compiles(way) else []
        blocks = saved_bytes_by_module(network, images, wanted) if wanted else {}
    fused = len(tails.fused) if networks.fuses(way) else 0
    return Saved(total, blocks, fused, len(tails.refused) if networks.fuses(way) else 0)


def kernels(device: torch.device) -> AbstractContextManager[object]:
    """Where the CUDA kernels decide what is saved, or, on a CPU, the same ones for the emulator, if these are built."""
    emulated = device.type == "cpu" and emulator.missing() is None
    return fused_resnet.use_backend("emulated") if emulated else nullcontext()


def _without_code(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Any:
    """As "inductor" compiles, which decides what forward saves, up to the code, which has no say in it."""
    return compile_fx(graph, inputs, inner_compile=lambda part, *_, **__: part)
