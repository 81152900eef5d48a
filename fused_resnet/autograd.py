"""The residual tail as one autograd Function over paths, whichever way its forward is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ._autocast import autocast_off
from .branches import Activation, Branch
from .paths import Differentiated, Needs, Operands, Saved, memory_format, operands_of

# (paths, activation, operands of all branches in a row) -> the output, and what each path keeps for backward.
Forward: TypeAlias = Callable[[Sequence[Any], Activation, Sequence[Tensor | None]], tuple[Tensor, list[Saved]]]


def needs_backward(branches: Sequence[Branch]) -> bool:
    """Whether gradients will be asked for."""
    operands = (tensor for branch in branches for tensor in operands_of(branch))
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)


def compute_tail(
    forward: Forward, paths: Sequence[Differentiated], branches: Sequence[Branch], activation: Activation
) -> Tensor:
    """Runs `forward`; the paths' backwards follow where gradients are needed. Double backward raises."""
    operands = [tensor for branch in branches for tensor in operands_of(branch)]
    with autocast_off(branches[0].x):
        if not needs_backward(branches):
            with torch.no_grad():
                return forward(paths, activation, operands)[0]
        y: Tensor = _Tail.apply(forward, paths, activation, *operands)  # type: ignore[no-untyped-call]
    return y


def operands_at(values: Sequence[Any], branch: int) -> Operands:
    """One branch's operands of those that stand in a row for all branches."""
    return Operands(*_part(values, branch))


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, forward: Forward, paths: Sequence[Differentiated], activation: Activation, *operands: Tensor | None
    ) -> Tensor:
        y, saved = forward(paths, activation, operands)
        ctx.paths = paths
        ctx.formats = [memory_format(_part(operands, i)[0]) for i in range(len(paths))]
        ctx.dtypes = [None if t is None else t.dtype for t in operands]
        ctx.saved_counts = [len(own) for own in saved]
        ctx.save_for_backward(*(t for own in saved for t in own), y if activation == "relu" else None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        with torch.no_grad(), autocast_off(dy):
            gradients = _backward(ctx, dy)
        if torch.is_grad_enabled():  # create_graph=True: the gradients get a graph, whose one node refuses
            gradients = [None if g is None else _Once.apply(g, dy, *ctx.saved_tensors) for g in gradients]  # type: ignore[no-untyped-call]
        return None, None, None, *gradients


def _backward(ctx: Any, dy: Tensor) -> list[Tensor | None]:
    *saved, y = ctx.saved_tensors
    needs = ctx.needs_input_grad[3:]
    g = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
    gradients: list[Tensor | None] = []
    for i, path in enumerate(ctx.paths):
        own, saved = tuple(saved[: ctx.saved_counts[i]]), saved[ctx.saved_counts[i] :]
        dx, *rest = path.backward(g, own, Needs(*_part(needs, i)))
        gradients += [None if dx is None else dx.contiguous(memory_format=ctx.formats[i]), *rest]
    asked = zip(gradients, needs, ctx.dtypes, strict=True)
    return [gradient.to(dtype) if gradient is not None and need else None for gradient, need, dtype in asked]


class _Once(torch.autograd.Function):
    """A gradient that cannot be differentiated. Without it, double backward would take it for a constant."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *depends_on: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "a fused residual tail cannot be differentiated twice: run the standard operations"
            " (fused_resnet.unfuse) where a gradient of a gradient is needed"
        )


def _part(values: Sequence[Any], branch: int) -> Sequence[Any]:
    """The values that belong to one branch of those that stand in a row for all branches."""
    size = len(Operands._fields)
    return values[branch * size : (branch + 1) * size]
