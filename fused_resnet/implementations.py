"""What the operators of `fused_resnet.ops` compute, and what shapes and layouts they give without computing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from . import backend
from .memory import empty_gradients, empty_output, empty_statistics
from .signature import BRANCHES, BackwardArguments, ForwardArguments, backward_branch, by_branch, forward_branch
from .tail import Gradients, Needs, Statistics, Tail, strategy_for

RESULTS = 1 + len(BRANCHES) * len(Statistics._fields)


def forward(*arguments: Any) -> tuple[Tensor, ...]:
    """y and all statistics."""
    tail, keep = _tail_of(arguments)
    x = tail.branches[0].x
    y, statistics = backend.computation(x.device).forward(tail, keep)
    return y, *_in_a_row(statistics if keep else [], x)


def fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
    """Tensors like those of `forward`."""
    tail, keep = _tail_of(arguments)
    each = zip(tail.branches, tail.strategies, strict=True)
    statistics = [empty_statistics(*of) for of in each] if keep else []
    return empty_output(tail.branches), *_in_a_row(statistics, tail.branches[0].x)


def _tail_of(arguments: Sequence[Any]) -> tuple[Tail, bool]:
    *values, relu, keep = arguments
    each = settled(by_branch(ForwardArguments, values), keep)
    return Tail(tuple(map(forward_branch, each)), tuple(own.strategy for own in each), relu), keep


def settled(each: Sequence[ForwardArguments], backward: bool) -> list[ForwardArguments]:
    """With a strategy in the place of "auto" where there is a choice."""
    branches = [forward_branch(own) for own in each]
    computation = backend.computation(branches[0].x.device)
    return [
        own._replace(strategy=strategy_for(computation, branch, own.strategy, backward))
        for own, branch in zip(each, branches, strict=True)
    ]


def statistics_of(results: Sequence[Tensor]) -> list[Statistics]:
    """Of main and shortcut, from all but the first result of `forward`."""
    size = len(Statistics._fields)
    present = [t if t.numel() else None for t in results]
    return [Statistics(*present[i : i + size]) for i in range(0, len(present), size)]


def _in_a_row(each: Sequence[Statistics], like: Tensor) -> list[Tensor]:
    """The inverse of `statistics_of`."""
    absent = [Statistics()] * (len(BRANCHES) - len(each))
    return [like.new_empty(0) if t is None else t for own in (*each, *absent) for t in own]


class _Incoming(NamedTuple):
    tail: Tail
    dy: Tensor
    y: Tensor | None
    statistics: tuple[Statistics, ...]
    needs: tuple[Needs, ...]


def backward(*arguments: Any) -> list[Tensor]:
    """The gradients that are asked for, main's first, in the order of `Gradients`."""
    of = _incoming(arguments)
    return _present(backend.computation(of.dy.device).backward(*of))


def fake_backward(*arguments: Any) -> list[Tensor]:
    """Tensors like those of `backward`."""
    of = _incoming(arguments)
    each = zip(of.tail.branches, of.needs, strict=True)
    return _present([empty_gradients(branch, needs, of.dy) for branch, needs in each])


def _incoming(arguments: Sequence[Any]) -> _Incoming:
    dy, y, *values = arguments
    each = by_branch(BackwardArguments, values)
    branches, statistics, needs = zip(*(backward_branch(own, dy) for own in each), strict=True)
    return _Incoming(Tail(branches, tuple(own.strategy for own in each), y is not None), dy, y, statistics, needs)


def _present(each: Sequence[Gradients]) -> list[Tensor]:
    return [gradient for own in each for gradient in own if gradient is not None]
