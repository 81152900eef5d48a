"""One training of one network, and the gradients along its depth ahead of it and behind it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Images
from .networks import blocks_of, build
from .settings import Settings
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
    return network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


class Trainer:
    """A network that learns a task, step by step."""

    def __init__(self, network: nn.Module, settings: Settings, device: torch.device, dtype: torch.dtype) -> None:
        self._network, self._device, self._dtype = network, device, dtype
        self._optimizer = torch.optim.SGD(
            network.parameters(),
            settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=True,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: rate(step, settings.steps))
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def step(self, batch: Images) -> Tensor:
        """The loss of the batch ahead of the step."""
        self._optimizer.zero_grad()
        with self._autocast():
            loss = F.cross_entropy(self._network(batch.images), batch.labels)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)


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
    trainer = Trainer(network, settings, device, dtype)
    losses = [trainer.step(own.batch(settings.batch_size, generator)) for _ in range(settings.steps)]
    means = [torch.stack(losses[i : i + WINDOW]).float().mean().item() for i in range(0, len(losses), WINDOW)]
    after = gradient_norms(network, probe)
    return Run(
        accuracy_on(network, task.test),
        losses=_rounded(means),
        gradients_before=_rounded(before),
        gradients_after=_rounded(after),
        seconds=round(time.process_time() - begun, 2),
    )


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def gradient_norms(network: nn.Module, batch: Images) -> list[float]:
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


@torch.inference_mode()
def accuracy_on(network: nn.Module, test: Images) -> float:
    """Fraction that is right, in evaluation mode, by batches that bound the memory."""
    network.eval()
    parts = zip(torch.split(test.images, 1000), torch.split(test.labels, 1000), strict=True)
    right = sum(int((network(_channels_last(x)).argmax(1) == labels).sum()) for x, labels in parts)
    return right / len(test)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
