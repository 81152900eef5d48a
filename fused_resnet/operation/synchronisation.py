"""What processes that share batch statistics exchange: one collective a tail and direction.

The mathematics is in ``docs/design.md``, section 3, "Several processes". Each process may have another number of rows,
which stays on the device: nothing here waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed
from torch import Tensor

from .branches import Branch, Norm, Projection, output_shape
from .computation import Needs, Statistics, Tail, shares_statistics

# The group of this process and no other, which needs no `torch.distributed`: all that several processes do, by itself.
ALONE = ""


def combine_statistics(tail: Tail, own: Sequence[Statistics]) -> list[Statistics]:
    """Statistics of all processes' rows where these are shared; running statistics are updated.

    Args:
        tail: the tail of this process.
        own: mean and var of this process's rows for each branch whose statistics are shared, zeros if there are none.
    """
    combined = list(own)
    for group, indices in _groups(tail):
        vectors = torch.stack([_mean_and_var(own[i]) for i in indices])
        each, count = _combined(group, vectors, _rows(tail))
        for i, (mean, var) in zip(indices, each, strict=True):
            branch = tail.branches[i]
            _update_running_statistics(branch, mean, var, count)
            own_mean = own[i].mean if isinstance(branch, Projection) else None
            combined[i] = own[i]._replace(mean=mean, var=var, own_mean=own_mean)
    return combined


def exchanges_sums(tail: Tail, needs: Sequence[Needs], index: int) -> bool:
    """Whether a branch's gradients follow from those of other processes' rows: not those of gamma and beta."""
    return shares_statistics(tail.branches[index]) and (needs[index].x or needs[index].weight)


def add_up(tail: Tail, needs: Sequence[Needs], sums: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sums over all processes, times this process's share of the rows: divided by its own rows, they are means of all.

    Args:
        tail: the tail of this process.
        needs: the gradients that are asked for, the same in all processes.
        sums: of this process's rows for each branch of `exchanges_sums`, (2, C); others are ignored.
    """
    added = list(sums)
    for group, sharing in _groups(tail):
        indices = [i for i in sharing if exchanges_sums(tail, needs, i)]
        if not indices:
            continue
        vectors = torch.stack([part for part in (sums[i] for i in indices) if part is not None])
        rows = vectors.new_full((1,), _rows(tail), dtype=torch.float64)
        total = torch.cat((rows, vectors.double().flatten()))
        if group != ALONE:
            torch.distributed.all_reduce(total, group=_resolved(group))
        share = rows / total[0]
        for i, part in zip(indices, (total[1:] * share).view_as(vectors).to(vectors.dtype), strict=True):
            added[i] = part
    return added


def _groups(tail: Tail) -> Iterator[tuple[str, list[int]]]:
    """The groups of processes, by name, each with its branches: one, unless each norm has another."""
    sharing = [i for i, branch in enumerate(tail.branches) if shares_statistics(branch)]
    names = {i: _norm_of(tail.branches[i]).process_group for i in sharing}
    for name in dict.fromkeys(names.values()):
        assert name is not None
        yield name, [i for i in sharing if names[i] == name]


def _mean_and_var(of: Statistics) -> Tensor:
    assert of.mean is not None
    assert of.var is not None
    return torch.stack((of.mean, of.var))


def _norm_of(branch: Branch) -> Norm:
    assert branch.norm is not None
    return branch.norm


def _rows(tail: Tail) -> int:
    n, _, h, w = output_shape(tail.branches[0])
    return n * h * w


def _combined(group: str, own: Tensor, rows: int) -> tuple[list[Tensor], Tensor]:
    """Mean and variance (2, C) of each of S norms over all processes, and the number of rows; `own` is (S, 2, C).

    In double precision and in the order of the processes, from distances to the common mean: sums of squares would
    cancel.
    """
    part = torch.cat((own.new_full((1,), rows, dtype=torch.float64), own.double().flatten()))
    parts = _gathered(group, part)
    counts, vectors = parts[:, 0], parts[:, 1:].view(-1, *own.shape)
    count = counts.sum()
    shares = (counts / count)[:, None, None]
    means, variances = vectors.unbind(2)
    mean = (shares * means).sum(0)
    var = (shares * (variances + (means - mean).square())).sum(0)
    return list(torch.stack((mean, var), 1).to(own.dtype)), count


def _gathered(group: str, part: Tensor) -> Tensor:
    """A row of each process, in their order."""
    if group == ALONE:
        return part[None]
    processes = _resolved(group)
    parts = [torch.empty_like(part) for _ in range(torch.distributed.get_world_size(processes))]
    torch.distributed.all_gather(parts, part, group=processes)
    return torch.stack(parts)


def _update_running_statistics(branch: Branch, mean: Tensor, var: Tensor, count: Tensor) -> None:
    norm = _norm_of(branch)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if norm.running_mean is None or norm.running_var is None:
        return
    if isinstance(branch, Projection) and branch.bias is not None:
        mean = mean + branch.bias
    unbiased = var * (count / (count - 1)).to(var.dtype)
    for running, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        weight: Tensor | float = norm.momentum if norm.momentum is not None else _cumulative(norm, running)
        # Through `data`: see `moments.MomentsPath`.
        running.data.lerp_(new.to(running.dtype), weight)


def _cumulative(norm: Norm, like: Tensor) -> Tensor:
    assert norm.num_batches_tracked is not None
    return norm.num_batches_tracked.to(like.dtype).reciprocal()


def _resolved(group: str) -> torch.distributed.ProcessGroup:
    found: torch.distributed.ProcessGroup = torch._C._distributed_c10d._resolve_process_group(group)  # type: ignore[arg-type]
    return found
