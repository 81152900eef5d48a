"""What the operators of `ops` compute, and what shapes and layouts they give without computing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .. import backend
from ..operation.computation import Gradients, Needs, Statistics, Tail
from ..operation.layouts import empty_gradients, empty_output, empty_statistics
from ..operation.relu_mask import empty_mask
from .signature import (
    BRANCHES,
    BackwardArguments,
    ForwardArguments,
    backward_branch,
    by_branch,
    forward_branch,
    packs,
    split,
)

# y, the packed mask of its relu and the statistics of both branches.
RESULTS = 2 + len(BRANCHES) * len(Statistics._fields)


def output(*arguments: Any) -> Tensor:
    """y, where no backward follows."""
    tail = tail_of(arguments)
    return backend.computation(tail.branches[0].x.device).forward(tail, keep=False)[0]


def fake_output(*arguments: Any) -> Tensor:
    """A tensor like that of `output`."""
    return empty_output(tail_of(arguments).branches)


def forward(*arguments: Any) -> tuple[Tensor, ...]:
    """y, the mask, and the statistics of main and of shortcut; empty tensors for those that are not there."""
    tail = tail_of(arguments)
    mask = empty_mask(tail.branches) if packs(arguments) else None
    y, statistics = backend.computation(tail.branches[0].x.device).forward(tail, keep=True, mask=mask)
    return _results(y, mask, statistics)


def fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
    """Tensors like those of `forward`."""
    tail = tail_of(arguments)
    mask = empty_mask(tail.branches) if packs(arguments) else None
    return _results(empty_output(tail.branches), mask, [*map(empty_statistics, tail.branches)])


def _results(y: Tensor, mask: Tensor | None, statistics: Sequence[Statistics]) -> tuple[Tensor, ...]:
    return y, y.new_empty(0) if mask is None else mask, *_in_a_row(statistics, y)


def tail_of(arguments: Sequence[Any]) -> Tail:
    """What a forward operator computes by its arguments."""
    values, relu = split(arguments)
    return Tail(tuple(map(forward_branch, by_branch(ForwardArguments, values))), relu)


def packs_mask(tail: Tail) -> bool:
    """Whether the forward of a tail is to pack its relu's mask, by what computes it now."""
    return backend.computation(tail.branches[0].x.device).packs_mask(tail)


def statistics_of(results: Sequence[Tensor]) -> list[Statistics]:
    """The statistics of main and shortcut, from all but the first two results of `forward`."""
    size = len(Statistics._fields)
    present = [t if t.numel() else None for t in results]
    return [Statistics(*present[i : i + size]) for i in range(0, len(present), size)]


def _in_a_row(each: Sequence[Statistics], like: Tensor) -> list[Tensor]:
    """The inverse of `statistics_of`; empty tensors are like `like`."""
    absent = [Statistics()] * (len(BRANCHES) - len(each))
    return [like.new_empty(0) if t is None else t for own in (*each, *absent) for t in own]


class _Incoming(NamedTuple):
    tail: Tail
    dy: Tensor
    mask: Tensor | None
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
    dy, mask, *values = arguments
    each = by_branch(BackwardArguments, values)
    branches, statistics, needs = zip(*(backward_branch(own, dy) for own in each), strict=True)
    return _Incoming(Tail(branches, mask is not None), dy, mask, statistics, needs)


def _present(each: Sequence[Gradients]) -> list[Tensor]:
    return [gradient for own in each for gradient in own if gradient is not None]
