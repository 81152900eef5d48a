"""Runs a tail's kernels in the emulator, forward and backward, and sums up what they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fused_resnet import use_backend

from ..accuracy import tf32
from ..emulator import Launch, is_activation, recorded_launches
from ..tails import Tail
from .cases import Case


@dataclass(frozen=True)
class Counted:
    """What the launches of one direction did; bytes are distinct ones of each phase, where not requested.

    Attributes:
        kernels: names, in order.
        cooperative: whether all launches were.
        read, written, requested: of activations.
        outside: read or written, of weights, vectors and partial sums.
        multiply_adds: of tensor cores.
    """

    kernels: list[str]
    cooperative: bool
    read: int
    written: int
    requested: int
    outside: int
    multiply_adds: int


def count(case: Case, dtype: torch.dtype) -> tuple[Counted, Counted]:
    """Forward and backward, in which all gradients are asked for."""
    torch.manual_seed(0)
    tail = Tail(case.shape, dtype).train(case.training)
    inputs = tail.inputs("cpu", dtype)
    for x in inputs:
        x.requires_grad_(True)
    with tf32(False), use_backend("emulated"):
        with recorded_launches() as forward:
            y = tail.fused(*inputs)
        dy = torch.randn_like(y)
        with recorded_launches() as backward:
            tail.gradients(y, inputs, dy)
    return _counted(forward), _counted(backward)


def _counted(launches: Sequence[Launch]) -> Counted:
    phases = [phase for launch in launches for phase in launch.phases]
    touched = [(is_activation(name), traffic) for phase in phases for name, traffic in phase.buffers.items()]
    activations = [traffic for activation, traffic in touched if activation]
    return Counted(
        [launch.kernel for launch in launches],
        all(launch.cooperative for launch in launches),
        sum(traffic.distinct_read for traffic in activations),
        sum(traffic.distinct_written for traffic in activations),
        sum(traffic.requested_read + traffic.requested_written for traffic in activations),
        sum(t.distinct_read + t.distinct_written for activation, t in touched if not activation),
        sum(phase.work.multiply_adds for phase in phases),
    )
