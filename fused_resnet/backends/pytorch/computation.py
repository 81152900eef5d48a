"""Tails by PyTorch's own operators, one path for each branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...operation import relu_mask
from ...operation.autocast import autocast_off
from ...operation.branches import Branch, Direct, Projection, ZeroPad
from ...operation.computation import Gradients, Needs, Statistics, Tail, shares_statistics
from ...operation.layouts import memory_format, vector_dtype
from ...operation.synchronisation import add_up, combine_statistics
from .branch_paths import EmptyPath, IdentityPath, NormPath, Path, ProductPath, ZeroPadPath
from .moments import FoldedPath, MomentsPath
from .synchronised_paths import SharedPath, shared_path


class ReferenceComputation:
    """Tails by PyTorch's own operators, one path for each branch."""

    def packs_mask(self, tail: Tail) -> bool:
        return False

    def forward(self, tail: Tail, keep: bool, mask: Tensor | None = None) -> tuple[Tensor, list[Statistics]]:
        with autocast_off(tail.branches[0].x):
            paths = _paths(tail)
            shared = combine_statistics(tail, [_summary(path) for path in paths])
            results = [_forward(*of) for of in zip(paths, shared, strict=True)]
            y = _sum([addend for addend, _ in results], [path.owns_addend for path in paths])
            y = y.relu_() if tail.relu else y
            if mask is not None:
                mask.copy_(relu_mask.pack(y))
            return y, [statistics for _, statistics in results]

    def backward(
        self, tail: Tail, dy: Tensor, mask: Tensor | None, statistics: Sequence[Statistics], needs: Sequence[Needs]
    ) -> list[Gradients]:
        with autocast_off(dy):
            g = dy if mask is None else relu_mask.masked(dy, mask)
            paths = _paths(tail)
            sums = [_sums(*of, g) for of in zip(paths, statistics, strict=True)]
            each = zip(paths, statistics, needs, sums, add_up(tail, needs, sums), strict=True)
            found = [_backward(*of, g) for of in each]
        return [_as_asked(*of, dy) for of in zip(tail.branches, found, needs, strict=True)]


def _summary(path: Path | SharedPath) -> Statistics:
    return path.summarise() if isinstance(path, SharedPath) else Statistics()


def _forward(path: Path | SharedPath, shared: Statistics) -> tuple[Tensor, Statistics]:
    return (path.addend(shared), shared) if isinstance(path, SharedPath) else path.forward()


def _sums(path: Path | SharedPath, statistics: Statistics, g: Tensor) -> Tensor | None:
    return path.sums(g, statistics) if isinstance(path, SharedPath) else None


def _backward(
    path: Path | SharedPath, statistics: Statistics, needs: Needs, own: Tensor | None, all_: Tensor | None, g: Tensor
) -> Gradients:
    if not isinstance(path, SharedPath):
        return path.backward(g, statistics, needs)
    assert own is not None
    assert all_ is not None
    return path.backward(g, statistics, own, all_, needs)


def _as_asked(branch: Branch, found: Gradients, needs: Needs, dy: Tensor) -> Gradients:
    """Only the gradients that are needed, in their tensors' dtypes and x's memory format."""
    x, weight, bias, gamma, beta = found
    dtype = vector_dtype(branch)
    if isinstance(branch, Projection) and weight is not None and needs.weight:
        weight = _like(branch.weight, weight.to(dy.dtype))
    return Gradients(
        x=x.to(dy.dtype).contiguous(memory_format=memory_format(branch.x)) if x is not None and needs.x else None,
        weight=weight if needs.weight else None,
        bias=bias.to(dy.dtype) if bias is not None and needs.bias else None,
        gamma=gamma.to(dtype) if gamma is not None and needs.gamma else None,
        beta=beta.to(dtype) if beta is not None and needs.beta else None,
    )


def _like(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the weight's own strides, those along dimensions of one element included: buckets of
    `DistributedDataParallel` and fused optimizers look at these, too."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


def _sum(addends: list[Tensor], owned: list[bool]) -> Tensor:
    """The addends' sum in memory that is ours to write, in the memory format that ``a + b`` would have."""
    if len(addends) == 1:
        return addends[0] if owned[0] else addends[0].clone()
    a, b = addends
    if owned[0]:
        return a.add_(b)
    if owned[1] and a.stride() == b.stride():
        return b.add_(a)
    return a + b


def _paths(tail: Tail) -> list[Path | SharedPath]:
    return [*map(_path, tail.branches)]


def _path(branch: Branch) -> Path | SharedPath:
    if isinstance(branch, ZeroPad):
        return ZeroPadPath(branch)
    if shares_statistics(branch):
        return shared_path(branch)
    if branch.norm is None:
        return IdentityPath(branch) if isinstance(branch, Direct) else ProductPath(branch)
    if branch.x.numel() == 0:
        return EmptyPath(branch)
    if isinstance(branch, Direct):
        return NormPath(branch.x, branch.norm)
    return (MomentsPath if branch.norm.training else FoldedPath)(branch)
