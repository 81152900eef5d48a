"""Training steps, as every benchmark that trains takes them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Batch(NamedTuple):
    """Images (N, C, H, W) and their labels (N,), int64."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
        """On another device, the images in another dtype."""
        return Batch(self.images.to(device, dtype), self.labels.to(device))


def random_batch(count: int, size: int, classes: int, device: str, seed: int = 1) -> Batch:
    """Noise in channels_last with random labels: speed and memory do not depend on the images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(classes, (count,), generator=generator)
    return Batch(images.to(device), labels.to(device))


class Trainer:
    """A network with an SGD optimizer; another dtype than float32 is autocast's, or the network's own float64."""

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype = torch.float32,
        *,
        forward: Callable[[Tensor], Tensor] | None = None,
        schedule: Callable[[int], float] = lambda step: 1.0,
        **sgd: Any,
    ) -> None:
        """`forward` computes the network, if not itself; `schedule` gives a step's rate, over the highest."""
        self.network, self._forward = network, forward or network
        self._device = next(network.parameters()).device.type
        self._dtype = dtype if dtype in (torch.float16, torch.bfloat16) else None
        self._optimizer = torch.optim.SGD(network.parameters(), **{"lr": 0.01, "momentum": 0.9, **sgd})
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, schedule)
        self._scaler = torch.amp.GradScaler(self._device, enabled=dtype == torch.float16)

    def step(self, batch: Batch) -> Tensor:
        """Forward, cross entropy, backward and an optimizer's step; the loss ahead of it."""
        self._optimizer.zero_grad()
        with torch.autocast(self._device, self._dtype, enabled=self._dtype is not None):
            loss = F.cross_entropy(self._forward(batch.images), batch.labels)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        return loss.detach()

    def forget_gradients(self) -> None:
        """Between steps nothing is held but `held_bytes`."""
        self._optimizer.zero_grad()

    @property
    def held_bytes(self) -> int:
        """Bytes of parameters, buffers and the optimizer's state."""
        state = chain.from_iterable(values.values() for values in self._optimizer.state.values())
        tensors = chain(self.network.parameters(), self.network.buffers(), state)
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
