"""The operators' gradients.

Registered by hand: `torch.library.register_autograd` refuses operators that write, and running statistics are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..operation.computation import Gradients, Needs
from .implementations import packs_mask, statistics_of, tail_of
from .signature import REVISION, SAVED, BackwardArguments, ForwardArguments, by_branch, flat, saved_arguments, split

# Where the tensors that gradients flow to stand among the forward operators' arguments, a list a branch.
_OPERANDS = [
    [len(ForwardArguments._fields) * branch + operand for operand in range(len(Needs._fields))] for branch in range(2)
]


def differentiable(operator: Any, forward: Any) -> Callable[..., Any]:
    """The Autograd kernel of an operator that gives y; `forward` is the one that gives the statistics as well."""

    def call(keys: Any, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and _any_requires_grad(arguments):
            return _Tail.apply(forward, keys, *arguments)  # type: ignore[no-untyped-call]
        return _below_autograd(operator, keys, arguments)

    return call


def differentiable_once(operator: Any) -> Callable[..., Any]:
    """The Autograd kernel of the backward operator: with ``create_graph=True`` its results get a graph that refuses."""

    def call(keys: Any, *arguments: Any) -> list[Tensor]:
        found: list[Tensor] = _below_autograd(operator, keys, arguments)
        if torch.is_grad_enabled() and _any_requires_grad(arguments):
            tensors = [t for t in arguments if isinstance(t, Tensor)]
            found = [_Once.apply(gradient, *tensors) for gradient in found]  # type: ignore[no-untyped-call]
        return found

    return call


def _any_requires_grad(arguments: Sequence[Any]) -> bool:
    return any(isinstance(t, Tensor) and t.requires_grad for t in arguments)


def _below_autograd(operator: Any, keys: Any, arguments: Sequence[Any]) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operator: Any, keys: Any, *arguments: Any) -> Tensor:
        values, relu = split(arguments)
        packs = packs_mask(tail_of(arguments))
        y, mask, *results = _below_autograd(operator, keys, (*values, relu, REVISION, packs))
        saved = saved_arguments(by_branch(ForwardArguments, values), statistics_of(results), relu)
        ctx.save_for_backward(*(t for own in saved for t in own[:SAVED]), mask if packs else y if relu else None)
        ctx.settings = [own[SAVED:] for own in saved]
        ctx.set_materialize_grads(False)
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, *wanted = ctx.needs_input_grad
        found: list[Tensor | None] = [None] * len(wanted)
        if dy is not None:  # otherwise nothing downstream depends on the output
            needs = [Needs(*(wanted[i] for i in of_branch)) for of_branch in _OPERANDS[: len(ctx.settings)]]
            for operands, own in zip(_OPERANDS, gradients(ctx.saved_tensors, ctx.settings, dy, needs), strict=False):
                for i, gradient in zip(operands, own, strict=True):
                    found[i] = gradient
        return None, None, *found


class Asked(NamedTuple):
    """A backward: what each branch saved, and the gradients that are asked for, of which some are `dy` itself."""

    each: list[BackwardArguments]
    computed: list[Needs]
    passed: list[bool]  # an identity's without a relu

    def operator_arguments(self) -> list[Any]:
        """The arguments of the backward operator that follow dy and the mask."""
        return flat([own._replace(needs=asked) for own, asked in zip(self.each, self.computed, strict=True)])


def asked(saved: Sequence[Any], settings: Sequence[Any], needs: Sequence[Needs]) -> Asked:
    """The backward of what was saved, `SAVED` tensors a branch and the mask, which is None without a relu."""
    *tensors, mask = saved
    each = [BackwardArguments(*tensors[i * SAVED : (i + 1) * SAVED], *own) for i, own in enumerate(settings)]
    passed = [mask is None and own.is_identity and wanted.x for own, wanted in zip(each, needs, strict=True)]
    computed = [wanted._replace(x=wanted.x and not passes) for wanted, passes in zip(needs, passed, strict=True)]
    return Asked(each, computed, passed)


def gradients(
    saved: Sequence[Tensor | None], settings: Sequence[Any], dy: Tensor, needs: Sequence[Needs]
) -> list[Gradients]:
    """Computes the gradients of each branch by the backward operator."""
    of = asked(saved, settings, needs)
    results: Iterator[Tensor] = iter(())
    if any(map(any, of.computed)):
        results = iter(torch.ops.fused_resnet.residual_tail_backward(dy, saved[-1], *of.operator_arguments()))
    found = [Gradients(*(next(results) if wanted else None for wanted in own)) for own in of.computed]
    # An operator must not return dy itself.
    return [
        own._replace(x=dy.contiguous(memory_format=of.x_format)) if passes else own
        for own, of, passes in zip(found, of.each, of.passed, strict=True)
    ]


class _Once(torch.autograd.Function):
    """A gradient that cannot be differentiated. Without it, double backward would take it for a constant."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *depends_on: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "a fused residual tail cannot be differentiated twice: run the standard operations"
            " (fused_resnet.unfuse) where a gradient of a gradient is needed"
        )
