"""One network under each option for its shortcuts: gradients through its depth, and its first training steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_resnet import models
from fused_resnet.nn import NoShortcut, ResidualBlock, ZeroPadShortcut

from ..data import DataSet, Images
from ..progress import progress
from ..provenance import Provenance

Option: TypeAlias = Literal["none", "identity only", "A", "B", "frozen"]


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        depth: of the CIFAR ResNet, 6n + 2.
        steps: of SGD with momentum 0.9, a constant learning rate, no weight decay.
        seeds: so many runs of each option, with weights and batches of their own.
        probe: images of the batch whose gradients are taken.
    """

    depth: int = 56
    steps: int = 120
    seeds: int = 3
    batch_size: int = 64
    learning_rate: float = 0.05
    probe: int = 256


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        gradients_before, gradients_after: norm of the loss's gradient with respect to each block's output, first block
            first, ahead of the first step and after the last.
        losses: mean cross entropy of each step's batch, ahead of the step.
        test_accuracy: fraction of the test images, after the last step.
    """

    gradients_before: list[float]
    gradients_after: list[float]
    losses: list[float]
    test_accuracy: float


@dataclass(frozen=True)
class Results:
    """Attributes are named as in the file; ``runs`` holds one run a seed for each option."""

    provenance: Provenance
    settings: Settings
    data: str
    runs: dict[str, list[Run]]


def run_all(data: DataSet, settings: Settings) -> dict[str, list[Run]]:
    """Every option from every seed."""
    runs: dict[str, list[Run]] = {}
    options = get_args(Option)
    with progress(f"CIFAR ResNet-{settings.depth}", len(options) * settings.seeds * settings.steps) as advance:
        for option in options:
            runs[option] = [_run(option, seed, data, settings, advance) for seed in range(settings.seeds)]
    return runs


def _run(option: Option, seed: int, data: DataSet, settings: Settings, advance: Callable[[], object]) -> Run:
    torch.manual_seed(seed)
    network = build(option, settings.depth, num_classes=data.classes, in_channels=data.channels).train()
    probe = _chosen(data.train, torch.arange(min(settings.probe, len(data.train))))
    before = gradient_norms(network, probe)
    optimizer = torch.optim.SGD(network.parameters(), settings.learning_rate, momentum=0.9)
    losses = []
    for _ in range(settings.steps):
        batch = _chosen(data.train, torch.randint(len(data.train), (settings.batch_size,)))
        optimizer.zero_grad()
        loss = F.cross_entropy(network(batch.images), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        advance()
    return Run(before, gradient_norms(network, probe), losses, _accuracy(network, data.test))


def build(option: Option, depth: int, **sizes: int) -> nn.Module:
    """The network; "identity only" has a shortcut in every block but those that change the shape."""
    network = models.cifar_resnet(depth, shortcut="A" if option == "identity only" else option, **sizes)
    for block in _blocks(network):
        if option == "identity only" and isinstance(block.downsample, ZeroPadShortcut):
            block.downsample = NoShortcut()
    return network


def _blocks(network: nn.Module) -> list[ResidualBlock]:
    return [module for module in network.modules() if isinstance(module, ResidualBlock)]


def _chosen(images: Images, index: Tensor) -> Images:
    return Images(images.images[index], images.labels[index])


def gradient_norms(network: nn.Module, batch: Images) -> list[float]:
    """Of the cross entropy's gradient with respect to each block's output, first block first."""
    outputs: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output)

    hooks = [block.register_forward_hook(note) for block in _blocks(network)]
    loss = F.cross_entropy(network(batch.images), batch.labels)
    for hook in hooks:
        hook.remove()
    return [float(gradient.norm()) for gradient in torch.autograd.grad(loss, outputs)]


@torch.inference_mode()
def _accuracy(network: nn.Module, test: Images) -> float:
    network.eval()
    return float((network(test.images).argmax(1) == test.labels).double().mean())
