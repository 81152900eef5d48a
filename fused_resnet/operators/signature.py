"""The operators' signatures, and the way from branches to an operator's arguments and back.

An operator takes tensors and plain numbers, the same of either branch: `ForwardArguments` or `BackwardArguments`. Of a
shortcut that is not there, the source is "none".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..operation.branches import Branch, Direct, Norm, Placement, Projection, ZeroPad
from ..operation.computation import Needs, Statistics, operands_of
from ..operation.layouts import memory_format

BRANCHES = ("main", "shortcut")
_SOURCES = {Direct: "direct", Projection: "projection", ZeroPad: "zero_pad"}


class ForwardArguments(NamedTuple):
    """One branch of the forward operators: what `fused_resnet.operation.branches` holds."""

    x: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    num_batches_tracked: Tensor | None = None
    source: str = "none"  # "direct", "projection" or "zero_pad"
    stride: int = 1
    out_channels: int = 0
    placement: Placement = "end"
    norm: str = "none"  # "training" or "running": the statistics that it goes by
    momentum: float | None = None
    eps: float = 0.0
    process_group: str | None = None


_OF_BRANCHES = len(BRANCHES) * len(ForwardArguments._fields)
INPUTS = 8  # the first fields of `ForwardArguments`, which are tensors
# The revision of the backward operator's arguments. Compilers' caches keep a backward under the forward that they have
# seen; forward says the revision, so that a backward of another one is not found. Programs without it have the first.
REVISION = 4


class BackwardArguments(NamedTuple):
    """One branch of the backward operator: what it saved, and which gradients are asked for."""

    x: Tensor | None = None
    weight: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None  # of a norm by itself (`masks_input`)
    mean: Tensor | None = None
    var: Tensor | None = None
    mu: Tensor | None = None
    cov: Tensor | None = None
    own_mean: Tensor | None = None
    x_shape: Sequence[int] = ()
    x_format: torch.memory_format = torch.contiguous_format
    vector_dtype: torch.dtype | None = None  # of gamma and beta
    source: str = "none"
    stride: int = 1
    out_channels: int = 0
    placement: Placement = "end"
    norm: str = "none"
    eps: float = 0.0
    process_group: str | None = None
    needs: Sequence[bool] = ()

    @property
    def is_identity(self) -> bool:
        return self.source == "direct" and self.norm == "none"


SAVED = 9  # the first fields of `BackwardArguments`, which are tensors

_WRITTEN = ("running_mean", "running_var", "num_batches_tracked")
_TYPES = {
    "x_shape": "SymInt[]",
    "x_format": "MemoryFormat",
    "vector_dtype": "ScalarType?",
    "source": "str",
    "stride": "SymInt",
    "out_channels": "SymInt",
    "placement": "str",
    "norm": "str",
    "momentum": "float?",
    "eps": "float",
    "process_group": "str?",
    "needs": "bool[]",
}

Arguments = TypeVar("Arguments", ForwardArguments, BackwardArguments)


def schema(arguments: type[Arguments], *, writes: bool = False) -> str:
    """Both branches' part of an operator's schema; `writes` declares that running statistics are written."""
    parts = []
    for branch in BRANCHES:
        for i, name in enumerate(arguments._fields):
            alias = f"({branch[0]}{i}!)" if writes and name in _WRITTEN else ""
            parts.append(f"{_TYPES.get(name, f'Tensor{alias}?')} {branch}_{name}")
    return ", ".join(parts)


def flat(each: Sequence[Arguments]) -> list[Any]:
    """The arguments of main and, where there is one, shortcut, in a row."""
    values: list[Any] = [value for own in each for value in own]
    return values + list(type(each[0])()) * (len(BRANCHES) - len(each))


def by_branch(arguments: type[Arguments], values: Sequence[Any]) -> list[Arguments]:
    """The inverse of `flat`."""
    size = len(arguments._fields)
    each = [arguments(*values[i * size : (i + 1) * size]) for i in range(len(BRANCHES))]
    return [own for own in each if own.source != "none"]


def split(arguments: Sequence[Any]) -> tuple[Sequence[Any], bool]:
    """The branches' part of a forward operator's arguments, and whether there is a relu."""
    return arguments[:_OF_BRANCHES], arguments[_OF_BRANCHES]


def packs(arguments: Sequence[Any]) -> bool:
    """Whether a forward operator is to give the packed mask of its relu; the dispatcher leaves defaults out."""
    return any(arguments[_OF_BRANCHES + 2 :])


def forward_arguments(branch: Branch) -> ForwardArguments:
    """A branch as the forward operators take it."""
    norm = branch.norm or Norm()
    return ForwardArguments(
        *operands_of(branch),
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked if norm.training else None,
        source=_SOURCES[type(branch)],
        stride=branch.stride,
        out_channels=branch.out_channels,
        placement=branch.placement if isinstance(branch, ZeroPad) else "end",
        norm="none" if branch.norm is None else "training" if norm.training else "running",
        momentum=norm.momentum,
        eps=norm.eps,
        process_group=norm.process_group,
    )


def forward_branch(own: ForwardArguments) -> Branch:
    """The inverse of `forward_arguments`."""
    assert own.x is not None
    norm = None
    if own.norm != "none":
        tracked = own.running_mean, own.running_var, own.num_batches_tracked
        norm = Norm(own.gamma, own.beta, *tracked, own.momentum, own.eps, own.norm == "training", own.process_group)
    return _branch(own, own.x, norm, own.bias)


def masks_input(each: Sequence[ForwardArguments], relu: bool) -> bool:
    """Whether the kernels' backward takes the relu's mask from the normed input, which it reads anyway, not from y."""
    return relu and len(each) == 1 and each[0].source == "direct" and each[0].norm != "none"


def saved_arguments(
    each: Sequence[ForwardArguments], statistics: Sequence[Statistics], relu: bool
) -> list[BackwardArguments]:
    """What backward takes of the branches after their forward, `needs` apart."""
    masks = masks_input(each, relu)
    return [_backward_arguments(*of, masks) for of in zip(each, statistics, strict=False)]


def _backward_arguments(own: ForwardArguments, statistics: Statistics, masks: bool) -> BackwardArguments:
    assert own.x is not None
    reads_input = own.source == "projection" or own.norm != "none"
    return BackwardArguments(
        own.x if reads_input else None,
        own.weight,
        own.gamma,
        own.beta if masks else None,
        *statistics,
        own.x.shape,
        memory_format(own.x),
        next((t.dtype for t in (own.gamma, own.beta) if t is not None), None),
        own.source,
        own.stride,
        own.out_channels,
        own.placement,
        own.norm,
        own.eps,
        own.process_group,
    )


def backward_branch(own: BackwardArguments, dy: Tensor) -> tuple[Branch, Statistics, Needs]:
    """The branch as it was in forward, its statistics and what is asked for. What is not needed lies on "meta"."""
    x, norm = own.x, None
    if x is None:
        x = torch.empty(own.x_shape, dtype=dy.dtype, device="meta", memory_format=own.x_format)
    if own.norm != "none":
        beta = own.beta
        if beta is None and own.vector_dtype is not None:
            beta = torch.empty(own.out_channels, dtype=own.vector_dtype, device="meta")
        norm = Norm(own.gamma, beta, eps=own.eps, training=own.norm == "training", process_group=own.process_group)
    statistics = Statistics(own.mean, own.var, own.mu, own.cov, own.own_mean)
    return _branch(own, x, norm, None), statistics, Needs(*own.needs)


def _branch(own: ForwardArguments | BackwardArguments, x: Tensor, norm: Norm | None, bias: Tensor | None) -> Branch:
    if own.source == "direct":
        return Direct(x, norm)
    if own.source == "zero_pad":
        return ZeroPad(x, own.out_channels, own.stride, own.placement)
    assert own.weight is not None
    return Projection(x, own.weight, norm, own.stride, bias)
