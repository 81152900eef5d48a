"""ImageNet networks on random images, unfused against fused, and one of them block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_resnet import models
from fused_resnet.nn import ResidualBlock

from ..accuracy import errors_against_float64
from ..clocks import Call, WallClock, measure
from ..progress import progress
from ..result import Row
from ..saved_activations import saved_bytes, saved_bytes_by_module
from ..sides import Models, Sides, beside_fused
from ..timing import Spread
from .columns import FUSED, SIDES, UNFUSED, WHOLE
from .settings import Settings

NETWORKS: dict[str, Callable[..., nn.Module]] = {"ResNet-18": models.resnet18, "ResNet-50": models.resnet50}
BLOCKS_OF = "ResNet-50"
_CLASSES = 1000


def build(name: str, device: torch.device) -> Models:
    """One of `NETWORKS`, unfused and fused, with the same random parameters, in channels_last."""
    torch.manual_seed(0)
    network = NETWORKS[name](num_classes=_CLASSES, fused=False).to(device)
    return beside_fused(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def random_images(batch_size: int, settings: Settings, device: torch.device) -> Tensor:
    """(batch_size, 3, image_size, image_size), channels_last, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, 3, settings.image_size, settings.image_size, generator=generator)
    return x.to(device=device, memory_format=torch.channels_last)


def rows_of(name: str, settings: Settings, device: torch.device) -> Iterator[Row]:
    """The rows of one of `NETWORKS`, and of the blocks of `BLOCKS_OF`."""
    networks = build(name, device)
    few = random_images(settings.accuracy_batch_size, settings, device)
    with progress(f"{name}, accuracy against float64", 3) as advance:
        errors = errors_against_float64(networks, few, _labels(few), advance)
    x = random_images(settings.batch_size, settings, device)
    saved = {WHOLE: networks.map(lambda network: saved_bytes(network.train(), x))}
    steps = {WHOLE: networks.map(lambda network: _training_step(network, x, _labels(x)))}
    step = _times(f"{name}, training", steps, settings.pairs, settings, device)
    forwards = {WHOLE: networks.map(lambda network: _forward(network, x))}
    evaluation = _times(f"{name}, evaluation", forwards, settings.pairs, settings, device)
    for row in _rows(name, saved, {"step": step, "evaluation": evaluation}):
        tails = (
            {}
            if row["side"] == UNFUSED
            else {
                "fused tails": len(networks.fused_tails),
                "refused tails": len(networks.refused_tails),
            }
        )
        yield {**row, **tails, **getattr(errors, str(row["side"])).row}
    if name == BLOCKS_OF:
        yield from _rows_of_blocks(name, networks.map(nn.Module.train), x, settings, device)


def _rows_of_blocks(
    name: str, networks: Sides[nn.Module], x: Tensor, settings: Settings, device: torch.device
) -> Iterator[Row]:
    """What each block is the first to save, and the time of its forward and backward on the input that it has there."""
    blocks = [block for block, module in networks.unfused.named_modules() if isinstance(module, ResidualBlock)]
    by_block = networks.map(lambda model: saved_bytes_by_module(model, x, blocks))
    passes = {
        block: networks.map(partial(_forward_backward, name=block, x=given.requires_grad_()))
        for block, given in _inputs(networks.unfused, x, blocks).items()
    }
    times = _times(f"{name}, block by block", passes, settings.block_pairs, settings, device)
    saved = {block: Sides(by_block.unfused[block], by_block.fused[block]) for block in blocks}
    yield from _rows(name, saved, {"step": times})


def _rows(
    name: str, saved: Mapping[str, Sides[int]], times: Mapping[str, Mapping[str, Sides[list[float]]]]
) -> Iterator[Row]:
    """A row for either side of each part; the fused one's has the ratios."""
    for part, nbytes in saved.items():
        for side in SIDES:
            row: Row = {"network": name, "part": part, "side": side, "saved": getattr(nbytes, side)}
            for what, seconds in times.items():
                row[what] = Spread.of(getattr(seconds[part], side)).scaled(1e3)
                if side == FUSED:
                    row[f"{what} / unfused"] = Spread.of_ratios(seconds[part].fused, seconds[part].unfused)
            yield row if side == UNFUSED else {**row, "saved / unfused": nbytes.fused / nbytes.unfused}


def _times(
    what: str, calls: Mapping[str, Sides[Call]], pairs: int, settings: Settings, device: torch.device
) -> dict[str, Sides[list[float]]]:
    """Seconds of both sides of each part, pair by pair."""
    each = {(part, side): getattr(sides, side) for part, sides in calls.items() for side in SIDES}
    with progress(what, settings.warm_up + pairs) as advance:
        clock = WallClock(device.type)
        times = measure(each, clock, runs=pairs, warm_up=settings.warm_up, advance=advance)
    return {part: Sides(*(times[part, side].seconds for side in SIDES)) for part in calls}


def _labels(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device) % _CLASSES


def _training_step(network: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], object]:
    """A whole step: zero_grad, forward, cross entropy, backward, SGD with momentum."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    network.train()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _forward(network: nn.Module, x: Tensor) -> Callable[[], object]:
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


def _forward_backward(network: nn.Module, name: str, x: Tensor) -> Callable[[], object]:
    """The named block's forward pass and its backward pass for x and all parameters."""
    block = network.get_submodule(name)
    operands = [x, *block.parameters()]
    dy = torch.ones_like(block(x))
    return lambda: torch.autograd.grad(block(x), operands, dy)
