"""From the arguments of a forward operator to what they mean for its tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import backend
from ..backends.kernels import launches
from ..backends.kernels.computation import forward_refusal, refusal
from ..backends.pytorch.moments import cancellation
from ..cost import traffic
from ..operation.branches import Branch, Projection, output_shape
from ..operation.computation import Needs, Tail, operands_of, takes_moments
from ..operators.implementations import tail_of
from ..operators.signature import forward_arguments
from .result import BranchExplanation, PassExplanation, TailExplanation

PLAIN = "plain PyTorch"


def describe(
    block: str | None,
    arguments: Sequence[Any],
    gradients: bool,
    convolved: Sequence[Branch | None] = (),
    values: bool = False,
) -> TailExplanation:
    """Describes the tail of an operator called in a block; `gradients`: the operator keeps what backward needs.

    `convolved` are the projections that PyTorch's own convolutions have computed for it, None for other branches.
    ``values`` asks for what depends on those of the tensors.
    """
    tail = tail_of(arguments)
    x = tail.branches[0].x
    chosen = backend.chosen_for(x.device)
    reasons = [None if chosen == "reference" else refused(tail) for refused in (forward_refusal, refusal)]
    plain = [chosen == "reference" or reason is not None for reason in reasons]
    each = [_branch(branch, values) for branch in tail.branches]
    for i, projection in enumerate(convolved):
        if projection is not None:
            inputs, stride = projection.x.shape[1], projection.stride
            each[i] = BranchExplanation("projection", each[i].norm, inputs, stride, "library")
    return TailExplanation(
        block=block,
        reason=reasons[0],
        shape=output_shape(tail.branches[0]),
        dtype=_name(x.dtype),
        math=launches.math_of(x.dtype) if not plain[0] or x.device.type == "cuda" else _name(x.dtype),
        backend="reference" if plain[0] else chosen,
        main=each[0],
        shortcut=each[1] if len(each) > 1 else None,
        forward=_forward(tail, plain[0], gradients),
        backward=_backward(tail, plain[1]) if gradients else None,
    )


def with_copied_gradient(explanation: TailExplanation, dy: Tensor) -> TailExplanation:
    """The same where the output's gradient comes in a layout that it is copied from before the kernel reads it."""
    backward = explanation.backward
    if backward is None or backward.kernel in (None, PLAIN):
        return explanation
    copied = replace(backward, kernel=f"{backward.kernel} + copy", bytes=backward.bytes + 2 * dy.nbytes)
    return replace(explanation, backward=copied)


def _forward(tail: Tail, plain: bool, gradients: bool) -> PassExplanation:
    kernel = PLAIN if plain else launches.forward_kernel(tail)
    return PassExplanation(kernel, *traffic.forward(tail, keep=gradients))


def _backward(tail: Tail, plain: bool) -> PassExplanation:
    needs = [Needs(*(t is not None and t.requires_grad for t in operands_of(branch))) for branch in tail.branches]
    kernel = launches.backward_kernel(tail, needs)
    return PassExplanation(PLAIN if plain and kernel else kernel, *traffic.backward(tail, needs))


def _branch(branch: Branch, values: bool) -> BranchExplanation:
    own = forward_arguments(branch)
    chosen = "moments" if takes_moments(branch) else None
    explained = BranchExplanation(own.source, own.norm, branch.x.shape[1], branch.stride, chosen)
    if values and chosen == "moments" and isinstance(branch, Projection):
        return replace(explained, cancellation=cancellation(branch))
    return explained


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
