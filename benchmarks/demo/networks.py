"""ImageNet networks on random images, unfused against fused, and one of them block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from fused_resnet import models
from fused_resnet.nn import ResidualBlock

from ..accuracy import errors_against_float64
from ..clocks import Call, WallClock, measure
from ..memory_formats import in_format
from ..progress import progress
from ..result import Row, Spread
from ..saved_activations import saved_bytes, saved_bytes_by_module
from ..trainer import Trainer, random_batch
from .settings import FUSED, SIDES, UNFUSED, WHOLE, Settings, both_sides

NETWORKS = {"ResNet-18": models.resnet18, "ResNet-50": models.resnet50}
BLOCKS_OF = "ResNet-50"
_CLASSES = 1000
# By part of the network, then by side.
_Calls = Mapping[str, Mapping[str, Call]]
_Seconds = dict[str, dict[str, list[float]]]


def rows_of(name: str, settings: Settings, device: torch.device) -> Iterator[Row]:
    """The rows of one of `NETWORKS`, and of the blocks of `BLOCKS_OF`."""
    torch.manual_seed(0)
    made = NETWORKS[name](num_classes=_CLASSES, fused=False)
    networks, report = both_sides(in_format(made.to(device)))
    few, batch = (
        random_batch(count, settings.image_size, _CLASSES, device.type)
        for count in (settings.accuracy_batch_size, settings.batch_size)
    )
    with progress(f"{name}, accuracy against float64", 3) as advance:
        errors = errors_against_float64(networks, *few, advance)
    saved = {WHOLE: {side: saved_bytes(network.train(), batch.images) for side, network in networks.items()}}
    steps = {WHOLE: {side: partial(Trainer(network).step, batch) for side, network in networks.items()}}
    step = _times(f"{name}, training", steps, settings.pairs, settings, device)
    forwards = {WHOLE: {side: _forward(network, batch.images) for side, network in networks.items()}}
    evaluation = _times(f"{name}, evaluation", forwards, settings.pairs, settings, device)
    tails = {"fused tails": len(report.fused), "refused tails": len(report.refused)}
    for row in _rows(name, saved, {"step": step, "evaluation": evaluation}):
        yield {**row, **(tails if row["side"] == FUSED else {}), **errors[str(row["side"])]}
    if name == BLOCKS_OF:
        yield from _rows_of_blocks(name, {s: n.train() for s, n in networks.items()}, batch.images, settings, device)


def _rows_of_blocks(
    name: str, networks: Mapping[str, nn.Module], x: Tensor, settings: Settings, device: torch.device
) -> Iterator[Row]:
    """What each block is the first to save, and the time of its forward and backward on the input that it has there."""
    blocks = [block for block, module in networks[UNFUSED].named_modules() if isinstance(module, ResidualBlock)]
    saved = {side: saved_bytes_by_module(network, x, blocks) for side, network in networks.items()}
    passes = {
        block: {side: _forward_backward(networks[side].get_submodule(block), given.requires_grad_()) for side in SIDES}
        for block, given in _inputs(networks[UNFUSED], x, blocks).items()
    }
    times = _times(f"{name}, block by block", passes, max(2, settings.pairs // 2), settings, device)
    yield from _rows(name, {block: {side: saved[side][block] for side in SIDES} for block in blocks}, {"step": times})


def _rows(name: str, saved: Mapping[str, Mapping[str, int]], times: Mapping[str, _Seconds]) -> Iterator[Row]:
    """A row for either side of each part; the fused one's has the ratios."""
    for part, nbytes in saved.items():
        for side in SIDES:
            row: Row = {"network": name, "part": part, "side": side, "saved": nbytes[side]}
            for what, seconds in times.items():
                row[what] = Spread.of(seconds[part][side]).scaled(1e3)
                if side == FUSED:
                    row[f"{what} / unfused"] = Spread.of_ratios(seconds[part][FUSED], seconds[part][UNFUSED])
            yield row if side == UNFUSED else {**row, "saved / unfused": nbytes[FUSED] / nbytes[UNFUSED]}


def _times(what: str, calls: _Calls, pairs: int, settings: Settings, device: torch.device) -> _Seconds:
    """Seconds of both sides of each part, pair by pair."""
    each = {(part, side): call for part, sides in calls.items() for side, call in sides.items()}
    with progress(what, settings.warm_up + pairs) as advance:
        clock = WallClock(device.type)
        times = measure(each, clock, runs=pairs, warm_up=settings.warm_up, advance=advance)
    return {part: {side: times[part, side].seconds for side in SIDES} for part in calls}


def _forward(network: nn.Module, x: Tensor) -> Call:
    network.eval()
    return torch.inference_mode()(lambda: network(x))


@torch.no_grad()
def _inputs(network: nn.Module, x: Tensor, names: list[str]) -> dict[str, Tensor]:
    """What each named submodule of one positional argument is given in ``network(x)``."""
    inputs: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, given: tuple[Tensor]) -> None:
        inputs[name] = given[0]

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(network.get_submodule(name).register_forward_pre_hook(partial(note, name)))
        network(x)
    return inputs


def _forward_backward(block: nn.Module, x: Tensor) -> Call:
    """The block's forward pass and its backward pass for x and all parameters."""
    operands = [x, *block.parameters()]
    dy = torch.ones_like(block(x))
    return lambda: torch.autograd.grad(block(x), operands, dy)
