"""One way of a network on a batch of noise, in training or in evaluation: what is timed, and what is checked first."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from .. import networks
from ..accuracy import TOLERANCE, relative_error
from ..memory_formats import in_format
from ..trainer import Batch, Trainer, random_batch
from .job import Job

_CLASSES = 10
_FIRST_STEPS = 3
# How far the first step's loss may be off: relative, and as a share of what eager learns in its first steps. The
# learning rate is so small that a few steps on one batch of noise lead to the same loss whatever the rounding.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-2}
_LEARNING_TOLERANCE = 0.1


class WrongError(Exception):
    """A way computes something else than the eager network."""


class Runner(Protocol):
    """One way of a network, and a batch. Between two steps nothing is held but `held_bytes`."""

    def step(self) -> Tensor: ...

    def first_results(self) -> list[float]: ...

    def check(self, own: Sequence[float], eager: Sequence[float]) -> None:
        """Raises `WrongError` where the first results are not those of the eager network."""

    def forget_gradients(self) -> None: ...

    @property
    def held_bytes(self) -> int: ...


class Training:
    """Training steps of a copy of the network."""

    def __init__(self, way: str, network: nn.Module, job: Job, batch: int) -> None:
        self._dtype, own = job.dtype, copy.deepcopy(network)
        self._batch = batch_of(job, batch)
        self._trainer = Trainer(own, getattr(torch, job.dtype), forward=networks.forward(way, own))
        self.forget_gradients = self._trainer.forget_gradients

    def step(self) -> Tensor:
        """The loss."""
        return self._trainer.step(self._batch)

    def first_results(self) -> list[float]:
        """Losses."""
        return [float(self.step()) for _ in range(_FIRST_STEPS)]

    def check(self, own: Sequence[float], eager: Sequence[float]) -> None:
        """Whether the losses begin as the eager network's, and go on as these."""
        begins = abs(own[0] - eager[0]) <= _TOLERANCE[self._dtype] * abs(eager[0])
        goes_on = abs(own[-1] - eager[-1]) <= _LEARNING_TOLERANCE * abs(eager[0] - eager[-1])
        if not (begins and goes_on):
            ours, theirs = (", ".join(f"{loss:.4f}" for loss in losses) for losses in (own, eager))
            raise WrongError(f"losses of the first steps are {ours}, of the eager network {theirs}")

    @property
    def held_bytes(self) -> int:
        return self._trainer.held_bytes + sum(t.nbytes for t in self._batch)


class Evaluation:
    """Forward passes of a copy of the network."""

    def __init__(self, way: str, network: nn.Module, job: Job, batch: int) -> None:
        self._network = copy.deepcopy(network).eval()
        self._forward = networks.forward(way, self._network)
        self._job, self._dtype, self._batch = job, getattr(torch, job.dtype), batch_of(job, batch)

    def step(self) -> Tensor:
        """The logits."""
        half = None if self._dtype == torch.float32 else self._dtype
        with torch.no_grad(), torch.autocast(self._job.device, half, enabled=half is not None):
            return self._forward(self._batch.images)

    def first_results(self) -> list[float]:
        """Logits."""
        return self.step().double().flatten().tolist()

    def check(self, own: Sequence[float], eager: Sequence[float]) -> None:
        error = relative_error(torch.tensor(own), torch.tensor(eager).double())
        if not error <= TOLERANCE[self._dtype]:
            raise WrongError(f"relative error {error:.2g}, expected at most {TOLERANCE[self._dtype]}")

    def forget_gradients(self) -> None:
        """There are none."""

    @property
    def held_bytes(self) -> int:
        return sum(t.nbytes for t in (*self._network.parameters(), *self._network.buffers(), *self._batch))


def batch_of(job: Job, count: int) -> Batch:
    """The same at every call."""
    return random_batch(count, job.size, _CLASSES, job.device)


def network_of(job: Job) -> nn.Module:
    """The job's network on its device, in channels_last, the same at every call."""
    torch.manual_seed(0)
    return in_format(networks.make(job.model).train().to(job.device))
