"""A network on a batch of noise, which it learns by heart: speed and memory do not depend on the images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import network_ways, networks
from ..accuracy import relative_error
from ..tail.measure import TOLERANCE
from .job import Job

_CLASSES = 10
# Small enough that a few steps on one batch of noise lead to the same loss whatever the rounding.
_LEARNING_RATE = 0.01
_FIRST_STEPS = 3
# How far the first step's loss may be off: relative, and as a share of what eager learns in its first steps.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-2}
_LEARNING_TOLERANCE = 0.1


class WrongError(Exception):
    """A way computes something else than the eager network."""


class Runner(Protocol):
    """One way of a network, and a batch."""

    def step(self) -> Tensor: ...

    def first_results(self) -> list[float]:
        """What the first steps give, for `check` to compare."""

    def check(self, own: Sequence[float], eager: Sequence[float]) -> None:
        """Raises `WrongError` where the first results are not those of the eager network."""

    def forget_gradients(self) -> None:
        """Between steps nothing is held but `held_bytes`."""

    @property
    def held_bytes(self) -> int:
        """Bytes of whatever is there between two steps."""


class Evaluator:
    """Forward passes in evaluation."""

    def __init__(self, way: str, network: nn.Module, batch: Batch) -> None:
        """`network` is copied."""
        self._network = copy.deepcopy(network).eval()
        self._batch = batch
        self._forward = network_ways.forward(way, self._network)

    def step(self) -> Tensor:
        """The logits."""
        with torch.no_grad(), self._batch.precision():
            return self._forward(self._batch.images)

    def first_results(self) -> list[float]:
        """The logits."""
        return self.step().double().flatten().tolist()

    def check(self, own: Sequence[float], eager: Sequence[float]) -> None:
        error = relative_error(torch.tensor(own), torch.tensor(eager).double())
        if not error <= TOLERANCE[self._batch.dtype]:
            raise WrongError(f"relative error {error:.2g}, expected at most {TOLERANCE[self._batch.dtype]}")

    def forget_gradients(self) -> None:
        """There are none."""

    @property
    def held_bytes(self) -> int:
        """Bytes of parameters, buffers and the batch."""
        return sum(t.nbytes for t in chain(self._network.parameters(), self._network.buffers(), self._batch.tensors))


class Trainer:
    """Training steps: one way of a network, with its optimizer and a batch."""

    def __init__(self, way: str, network: nn.Module, batch: Batch) -> None:
        """`network` is copied."""
        own = copy.deepcopy(network)
        self._batch = batch
        self._forward = network_ways.forward(way, own)
        self._optimizer = torch.optim.SGD(own.parameters(), lr=_LEARNING_RATE, momentum=0.9)
        self._network = own

    def step(self) -> Tensor:
        """Forward, loss, backward and an optimizer's step; the loss."""
        self._optimizer.zero_grad()
        with self._batch.precision():
            loss = F.cross_entropy(self._forward(self._batch.images), self._batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def first_results(self) -> list[float]:
        """Losses."""
        return [float(self.step()) for _ in range(_FIRST_STEPS)]

    def check(self, own: Sequence[float], eager: Sequence[float]) -> None:
        """Whether the losses begin as the eager network's, and go on as these."""
        tolerance = _TOLERANCE[str(self._batch.dtype).removeprefix("torch.")]
        begins = abs(own[0] - eager[0]) <= tolerance * abs(eager[0])
        goes_on = abs(own[-1] - eager[-1]) <= _LEARNING_TOLERANCE * abs(eager[0] - eager[-1])
        if not (begins and goes_on):
            raise WrongError(f"losses of the first steps are {_shown(own)}, of the eager network {_shown(eager)}")

    def forget_gradients(self) -> None:
        """Between steps nothing is held but `held_bytes`."""
        self._optimizer.zero_grad()

    @property
    def held_bytes(self) -> int:
        """Bytes of parameters, buffers, the optimizer's state and the batch."""
        state = [value for values in self._optimizer.state.values() for value in values.values()]
        tensors = chain(self._network.parameters(), self._network.buffers(), state, self._batch.tensors)
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


class Batch:
    """Random images in channels_last and random labels, the same at every call."""

    def __init__(self, job: Job, batch: int) -> None:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(batch, 3, job.size, job.size, generator=generator)
        self.images = images.contiguous(memory_format=torch.channels_last).to(job.device)
        self.labels = torch.randint(_CLASSES, (batch,), generator=generator).to(job.device)
        self._device, self.dtype = job.device, getattr(torch, job.dtype)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.images, self.labels

    def precision(self) -> Any:
        """Autocast, where the dtype asks for it."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self._device, self.dtype)


def network(job: Job) -> nn.Module:
    """The job's network on its device, in channels_last, the same at every call."""
    torch.manual_seed(0)
    made = networks.make(job.model).train()
    on_device: nn.Module = made.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return on_device


def _shown(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)
