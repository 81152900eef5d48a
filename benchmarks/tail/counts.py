"""What each way moves, multiplies and launches, as far as that can be counted without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fused_resnet.backends.kernels import launches
from fused_resnet.cost import traffic
from fused_resnet.operation.branches import Branch, Direct, Projection, output_shape
from fused_resnet.operation.computation import Tail as DescribedTail

from ..tail_shapes import TailShape
from ..tails import Mode, Tail, described, every_gradient
from .passes import watch


@dataclass(frozen=True)
class Counted:
    """What one call moves, multiplies and launches, forward and what follows it.

    Attributes:
        bytes: of activations, read or written.
        operations: of products; a multiply-add is two.
        launches: of the package's kernels, or operators that PyTorch dispatches; None where it is not known.
    """

    bytes: int
    operations: int
    launches: int | None


class _Setting(NamedTuple):
    shape: TailShape
    mode: Mode
    dtype: torch.dtype


def counted(way: str, shape: TailShape, mode: Mode, dtype: torch.dtype) -> Counted | None:
    """What one of `ways.WAYS` does; None where nobody can say, as of what a compiler makes of it.

    Of the fused ways it is what the kernels do, whoever computes; of "fused", with moments.
    """
    count = _COUNTS.get(way)
    return None if count is None else count(_Setting(shape, mode, dtype))


def _eager(at: _Setting) -> Counted:
    tail, x, before = _on_meta(at)

    def call() -> None:
        y = tail(x, before)
        if at.mode.backward:
            tail.gradients(y, (x, before), torch.empty_like(y))

    return _watched(call, at)


def _moments(at: _Setting) -> Counted:
    return _of_kernels(described(at.shape, at.mode.training, at.dtype), at)


def _library(at: _Setting) -> Counted:
    """The convolutions and, of a tail behind them, the kernels; their launches are not known."""
    tail, x, before = _on_meta(at)
    branches = tail.branches(x, before)

    def call() -> None:
        for of in branches:
            if isinstance(of, Projection):
                p = F.conv2d(of.x, of.weight, None, of.stride)
                if at.mode.backward:
                    torch.autograd.grad(p, [of.x, of.weight], torch.empty_like(p))

    apart = _watched(call, at)
    behind = _of_kernels(DescribedTail(tuple(map(_behind_convolution, branches)), relu=True), at)
    return Counted(apart.bytes + behind.bytes, apart.operations + behind.operations, None)


def _behind_convolution(branch: Branch) -> Branch:
    if not isinstance(branch, Projection):
        return branch
    return Direct(torch.empty(output_shape(branch), dtype=branch.x.dtype, device="meta"), branch.norm)


def _cudnn(at: _Setting) -> Counted:
    """The shortcut's projection writes what is added; one operator reads that and x and writes y."""
    shape, before = at.shape, at.shape.before or 0
    y = shape.rows * shape.channels
    elements = shape.rows * (shape.inner or 0) + 2 * y + (shape.rows * before + y if before else 0)
    operations = 2 * y * ((shape.inner or 0) + before)
    return Counted(elements * at.dtype.itemsize, operations, 2 if before else 1)


_COUNTS: dict[str, Callable[[_Setting], Counted]] = {
    "fused": _moments,
    "moments": _moments,
    "library": _library,
    "eager": _eager,
    "eager-contiguous": _eager,
    "cudnn-fused": _cudnn,
}


def _on_meta(at: _Setting) -> tuple[Tail, Tensor, Tensor]:
    """The tail and both inputs."""
    with torch.device("meta"):
        tail = Tail(at.shape, at.dtype).train(at.mode.training)
    x, before = (t.requires_grad_(at.mode.grad_enabled) for t in tail.inputs("meta", at.dtype))
    return tail, x, before


def _watched(call: Callable[[], object], at: _Setting) -> Counted:
    with torch.set_grad_enabled(at.mode.grad_enabled):
        watched = watch(call)
    return Counted(watched.elements * at.dtype.itemsize, watched.operations, watched.operators)


def _of_kernels(tail: DescribedTail, at: _Setting) -> Counted:
    needs = every_gradient(tail)
    directions = [traffic.forward(tail, keep=at.mode.backward)]
    names: list[str | None] = [launches.forward_kernel(tail)]
    if at.mode.backward:
        directions.append(traffic.backward(tail, needs))
        names.append(launches.backward_kernel(tail, needs))
    moved, operations = (sum(getattr(of, name) for of in directions) for name in ("bytes", "operations"))
    return Counted(moved, operations, sum(len(name.split(" + ")) for name in names if name is not None))
