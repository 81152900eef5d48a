"""A network block by block: what each saves for backward and how long it takes in training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fused_resnet.nn import ResidualBlock

from ..memory import saved_bytes_by_module
from ..progress import progress
from ..sides import Sides
from ..timing import Timing, interleaved
from .networks import build, random_images
from .settings import Settings


@dataclass(frozen=True)
class Block:
    """One residual block of a network.

    Attributes:
        saved_bytes: what the block is the first to save in the whole network's forward pass in training.
        training: the block's forward and backward pass alone, on the input that it has in the network.
    """

    saved_bytes: Sides[int]
    training: Timing


def measure_blocks(network: str, settings: Settings, device: torch.device) -> dict[str, Block]:
    """Measures the residual blocks of one of `networks.NETWORKS`, by their names within it."""
    networks = build(network, device).map(nn.Module.train)
    names = [name for name, module in networks.unfused.named_modules() if isinstance(module, ResidualBlock)]
    x = random_images(settings.batch_size, settings, device)
    saved = networks.map(lambda model: saved_bytes_by_module(model, x, names))
    passes = {
        name: networks.map(partial(_forward_backward, name=name, x=given.requires_grad_()))
        for name, given in _inputs(networks.unfused, x, names).items()
    }
    pairs, warm_up = settings.block_pairs, settings.warm_up
    with progress(f"{network}, block by block", len(names) * (warm_up + pairs)) as advance:
        timings = interleaved(passes, pairs=pairs, warm_up=warm_up, device=device, advance=advance)
    return {name: Block(Sides(saved.unfused[name], saved.fused[name]), timings[name]) for name in names}


@torch.no_grad()
def _inputs(network: nn.Module, x: Tensor, names: list[str]) -> dict[str, Tensor]:
    """What each named submodule of one positional argument is given in ``network(x)``."""
    inputs: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, given: tuple[Tensor]) -> None:
        inputs[name] = given[0]

    with ExitStack() as hooks:
        for name in names:
            module = network.get_submodule(name)
            hooks.enter_context(module.register_forward_pre_hook(partial(note, name)))
        network(x)
    return inputs


def _forward_backward(network: nn.Module, name: str, x: Tensor) -> Callable[[], object]:
    """The named block's forward pass and its backward pass for x and all parameters."""
    block = network.get_submodule(name)
    operands = [x, *block.parameters()]
    dy = torch.ones_like(block(x))
    return lambda: torch.autograd.grad(block(x), operands, dy)
