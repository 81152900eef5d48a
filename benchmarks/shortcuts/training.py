"""One training of one network, and the gradients along its depth ahead of it and behind it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import accuracy
from ..memory_formats import in_format
from ..trainer import Batch, Trainer
from .settings import Settings, blocks_of, build
from .task import Task

WINDOW = 10  # steps whose losses become one number


@dataclass(frozen=True)
class Run:
    """What became of a training.

    Attributes:
        accuracy: fraction of the test images, after the last step.
        losses: mean cross entropy of the batches of each `WINDOW` steps, ahead of the steps.
        gradients_before, gradients_after: norm of the loss's gradient with respect to each block's output, first block
            first, on the same training images, ahead of the first step and after the last.
        seconds: that the training took; of the process, not of the clock on the wall.
    """

    accuracy: float
    losses: list[float]
    gradients_before: list[float]
    gradients_after: list[float]
    seconds: float


def new_network(option: str, depth: int, task: Task, device: torch.device, fused: bool) -> nn.Module:
    """In channels_last, with weights from PyTorch's current seed."""
    network = build(option, depth, num_classes=task.classes, in_channels=task.channels, fused=fused)
    return in_format(network.to(device)).train()


def trainer_of(network: nn.Module, settings: Settings, dtype: torch.dtype) -> Trainer:
    """SGD with Nesterov's momentum, at a rate that rises and falls."""
    names = ("momentum", "weight_decay")
    sgd = {"lr": settings.learning_rate, "nesterov": True, **{name: getattr(settings, name) for name in names}}
    return Trainer(network, dtype, schedule=lambda step: rate(step, settings.steps), **sgd)


def rate(step: int, steps: int) -> float:
    """The rate of a step (from 0) over the highest: linearly up over the first tenth, then linearly down to zero."""
    warm_up = max(1, steps // 10)
    return min((step + 1) / warm_up, max(0, steps - step) / max(1, steps - warm_up))


def train(option: str, depth: int, seed: int, task: Task, settings: Settings, dtype: torch.dtype) -> Run:
    """On the task's device: with fused tails on a GPU, with PyTorch's operations on a CPU, where small nets are
    faster so; what is learnt is the same."""
    begun = time.process_time()
    device = task.train.images.device
    own = task.drawn(settings.train_images, seed)
    torch.manual_seed(seed)
    network = new_network(option, depth, task, device, fused=device.type == "cuda")
    generator = torch.Generator().manual_seed(seed)
    probe = own.batch(settings.probe, generator)
    before = gradient_norms(network, probe)
    trainer = trainer_of(network, settings, dtype)
    each = [trainer.step(own.batch(settings.batch_size, generator)) for _ in range(settings.steps)]
    means = [torch.stack(each[i : i + WINDOW]).float().mean().item() for i in range(0, len(each), WINDOW)]
    after = gradient_norms(network, probe)
    losses, before, after = ([float(f"{value:.5g}") for value in values] for values in (means, before, after))
    return Run(accuracy(network, task.test), losses, before, after, round(time.process_time() - begun, 2))


def gradient_norms(network: nn.Module, batch: Batch) -> list[float]:
    """Norms of the cross entropy's gradient at each block's output, first block first, in training mode.

    Running statistics are left as they were.
    """
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    outputs: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output)

    hooks = [block.register_forward_hook(note) for block in blocks_of(network)]
    loss = F.cross_entropy(network(batch.images), batch.labels)
    for hook in hooks:
        hook.remove()
    norms = [float(gradient.norm()) for gradient in torch.autograd.grad(loss, outputs)]
    for name, buffer in network.named_buffers():
        buffer.copy_(kept[name])
    return norms
