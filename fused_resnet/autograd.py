"""The residual tail as one autograd Function, whichever way it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ._autocast import autocast_off
from .branches import Activation, Branch
from .paths import Gradients, Needs, Operands, Saved, memory_format, operands_of


class Computation(Protocol):
    """One call's way to the output and back; it holds no tensor that gradients flow to."""

    def forward(self, operands: Sequence[Operands]) -> tuple[Tensor, list[Saved]]:
        """The tail's output, and what each branch keeps for backward."""
        ...

    def backward(self, dy: Tensor, y: Tensor | None, saved: Sequence[Saved], needs: Sequence[Needs]) -> list[Gradients]:
        """Each branch's gradients from the output's; `y` is the output of a relu, None without one."""
        ...


def needs_backward(branches: Sequence[Branch]) -> bool:
    """Whether gradients will be asked for."""
    operands = (tensor for branch in branches for tensor in operands_of(branch))
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)


def compute_tail(computation: Computation, branches: Sequence[Branch], activation: Activation) -> Tensor:
    """Runs the computation, differentiable where gradients are needed. Double backward raises."""
    operands = [tensor for branch in branches for tensor in operands_of(branch)]
    with autocast_off(branches[0].x):
        if not needs_backward(branches):
            with torch.no_grad():
                return computation.forward(_operands(operands))[0]
        y: Tensor = _Tail.apply(computation, activation, *operands)  # type: ignore[no-untyped-call]
    return y


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, computation: Computation, activation: Activation, *operands: Tensor | None) -> Tensor:
        own = _operands(operands)
        y, saved = computation.forward(own)
        ctx.computation = computation
        ctx.formats = [memory_format(o.x) for o in own]
        ctx.dtypes = _by_branch([None if t is None else t.dtype for t in operands])
        ctx.saved_counts = [len(part) for part in saved]
        ctx.save_for_backward(*(t for part in saved for t in part), y if activation == "relu" else None)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
        if dy is None:  # nothing downstream depends on the output
            return tuple(None for _ in ctx.needs_input_grad)
        with torch.no_grad(), autocast_off(dy):
            gradients = _backward(ctx, dy)
        if torch.is_grad_enabled():  # create_graph=True: the gradients get a graph, whose one node refuses
            gradients = [None if g is None else _Once.apply(g, dy, *ctx.saved_tensors) for g in gradients]  # type: ignore[no-untyped-call]
        return None, None, *gradients


def _backward(ctx: Any, dy: Tensor) -> list[Tensor | None]:
    *flat, y = ctx.saved_tensors
    needs = [Needs(*part) for part in _by_branch(ctx.needs_input_grad[2:])]
    saved: list[Saved] = []
    for count in ctx.saved_counts:
        saved.append(tuple(flat[:count]))
        flat = flat[count:]
    gradients: list[Tensor | None] = []
    found = ctx.computation.backward(dy, y, saved, needs)
    for own, asked, dtypes, layout in zip(found, needs, ctx.dtypes, ctx.formats, strict=True):
        dx, *rest = own
        in_layout = [None if dx is None else dx.contiguous(memory_format=layout), *rest]
        each = zip(in_layout, asked, dtypes, strict=True)
        gradients += [g.to(dtype) if g is not None and need else None for g, need, dtype in each]
    return gradients


def _operands(values: Sequence[Tensor | None]) -> list[Operands]:
    return [Operands(*part) for part in _by_branch(values)]


def _by_branch(values: Sequence[Any]) -> list[Sequence[Any]]:
    """Cuts what stands in a row for all branches."""
    size = len(Operands._fields)
    return [values[first : first + size] for first in range(0, len(values), size)]


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
