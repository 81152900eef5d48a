"""An ImageNet network on random images, unfused against fused: time, saved activations, accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_resnet import models

from ..accuracy import Errors, errors_against_float64
from ..memory import saved_bytes
from ..progress import progress
from ..sides import Models, Sides, beside_fused
from ..timing import Timing, interleaved
from .settings import Settings

NETWORKS: dict[str, Callable[..., nn.Module]] = {"ResNet-18": models.resnet18, "ResNet-50": models.resnet50}
_CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """What was measured of one network.

    Attributes:
        fused_tails, refused_tails: names within the fused model.
        training: a whole step: zero_grad, forward, cross entropy, backward, SGD with momentum.
        evaluation: a forward pass in inference mode.
        saved_bytes: what a forward pass in training saves for backward, parameters and buffers aside.
        errors: in float32, against the unfused network in float64.
    """

    fused_tails: list[str]
    refused_tails: list[str]
    training: Timing
    evaluation: Timing
    saved_bytes: Sides[int]
    errors: Sides[Errors]


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


def measure(name: str, settings: Settings, device: torch.device) -> Network:
    """Measures one of `NETWORKS`."""
    networks = build(name, device)
    few = random_images(settings.accuracy_batch_size, settings, device)
    with progress(f"{name}, accuracy against float64", 3) as advance:
        errors = errors_against_float64(networks, few, _labels(few), advance)
    x = random_images(settings.batch_size, settings, device)
    saved = networks.map(lambda network: saved_bytes(network.train(), x))
    steps = networks.map(lambda network: _training_step(network, x, _labels(x)))
    training = _time(f"{name}, training", steps, settings, device)
    forwards = networks.map(lambda network: _forward(network, x))
    evaluation = _time(f"{name}, evaluation", forwards, settings, device)
    return Network(networks.fused_tails, networks.refused_tails, training, evaluation, saved, errors)


def _labels(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device) % _CLASSES


def _time(what: str, calls: Sides[Callable[[], object]], settings: Settings, device: torch.device) -> Timing:
    pairs, warm_up = settings.pairs, settings.warm_up
    with progress(what, warm_up + pairs) as advance:
        return interleaved({what: calls}, pairs=pairs, warm_up=warm_up, device=device, advance=advance)[what]


def _training_step(network: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], object]:
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
