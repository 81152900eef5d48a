"""The residual tail by the compiled kernels: one launch forward, one launch backward.

What the kernels do not take goes to `fused_resnet.backends.pytorch.computation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ...operation.branches import Branch, Norm, named_tensors, output_shape, with_tensors
from ...operation.computation import Gradients, Needs, Statistics, Tail, shares_statistics
from ...operation.layouts import empty_gradients, empty_output, output_format, readable
from ...operation.relu_mask import is_packed, pack
from ...operation.requirement import require_kernels
from ...operation.synchronisation import add_up, combine_statistics, exchanges_sums
from ..pytorch.computation import ReferenceComputation
from .branch_arguments import describe, describe_gradient, kept
from .phases import masks_input

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# What the kernels index with 32 bits.
_MOST_ROWS, _MOST_CHANNELS = 2**31 - 2**13, 2**20


class KernelComputation:
    """Tails by the kernels of a compiled module."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def packs_mask(self, tail: Tail) -> bool:
        return tail.relu and not masks_input(tail) and tail.branches[0].x.dtype in _DTYPES

    def forward(self, tail: Tail, keep: bool, mask: Tensor | None = None) -> tuple[Tensor, list[Statistics]]:
        reason = forward_refusal(tail)
        if reason is not None:
            require_kernels(reason)
        if reason is not None or is_empty(tail):
            return ReferenceComputation().forward(tail, keep, mask)
        tail = _resolved(tail)
        y = empty_output(tail.branches)
        call = forward_call(self.module, tail, y, keep, mask)
        if any(map(shares_statistics, tail.branches)):
            return y, _forward_by_processes(call, tail)
        call.run()
        return y, [kept(branch, call.statistics(i)) for i, branch in enumerate(tail.branches)]

    def backward(
        self, tail: Tail, dy: Tensor, mask: Tensor | None, statistics: Sequence[Statistics], needs: Sequence[Needs]
    ) -> list[Gradients]:
        if refusal(tail) or is_empty(tail):
            return ReferenceComputation().backward(tail, dy, mask, statistics, needs)
        tail = _resolved(tail)
        into = [empty_gradients(branch, asked, dy) for branch, asked in zip(tail.branches, needs, strict=True)]
        call = backward_call(self.module, tail, readable_gradient(tail, dy.resolve_neg()), mask, statistics, into)
        if any(map(shares_statistics, tail.branches)):
            _backward_by_processes(call, tail, needs)
        else:
            call.run()
        return into


def _forward_by_processes(call: Any, tail: Tail) -> list[Statistics]:
    """Runs a call of which the processes share statistics, with their exchange between its two launches."""
    call.summarise()
    launched = [call.statistics(i) for i in range(len(tail.branches))]
    own = [
        kept(branch, of)._replace(mean=of.mean.clone()) if shares_statistics(branch) else kept(branch, of)
        for branch, of in zip(tail.branches, launched, strict=True)
    ]
    combined = combine_statistics(tail, own)
    for branch, of, (mean, var, *_) in zip(tail.branches, launched, combined, strict=True):
        if shares_statistics(branch):
            of.mean.copy_(mean)
            of.var.copy_(var)
    call.apply()
    return combined


def _backward_by_processes(call: Any, tail: Tail, needs: Sequence[Needs]) -> None:
    """The same of backward."""
    call.summarise()
    exchanged = [i for i, _ in enumerate(tail.branches) if exchanges_sums(tail, needs, i)]
    own: list[Tensor | None] = [None] * len(tail.branches)
    for i, sums in zip(exchanged, call.sums(), strict=True):
        own[i] = sums
    for mine, added in zip(own, add_up(tail, needs, own), strict=True):
        if mine is not None and added is not None:
            mine.copy_(added)
    call.complete()


def forward_call(module: Any, tail: Tail, y: Tensor, keep: bool, mask: Tensor | None = None) -> Any:
    """The module's call that writes y and, where there is one, the packed mask of its relu, not yet run."""
    main, shortcut, *_ = *[describe(module, branch, keep) for branch in tail.branches], None
    allow_tf32 = torch.backends.cudnn.allow_tf32
    return module.Forward(main=main, shortcut=shortcut, y=y, mask=mask, relu=tail.relu, tf32=allow_tf32)


def backward_call(
    module: Any,
    tail: Tail,
    dy: Tensor,
    mask: Tensor | None,
    statistics: Sequence[Statistics],
    into: Sequence[Gradients],
) -> Any:
    """The module's call that writes the gradients, not yet run."""
    if mask is not None and not is_packed(mask):  # another backend's forward kept y
        mask = None if masks_input(tail) else pack(mask.resolve_neg())
    each = zip(tail.branches, statistics, into, strict=True)
    main, shortcut, *_ = *[describe_gradient(module, *of) for of in each], None
    allow_tf32 = torch.backends.cudnn.allow_tf32
    return module.Backward(main=main, shortcut=shortcut, dy=dy, mask=mask, relu=tail.relu, tf32=allow_tf32)


def readable_gradient(tail: Tail, dy: Tensor) -> Tensor:
    """dy as the kernels read it best, a copy where that is dearer than copying."""
    return readable(dy, output_format(tail.branches))


def refusal(tail: Tail) -> str | None:
    """Why the kernels do not take a tail; None where they do."""
    n, c, h, w = output_shape(tail.branches[0])
    dtype = tail.branches[0].x.dtype
    if dtype not in _DTYPES:
        return f"{dtype} is computed by plain PyTorch"
    if n * h * w > _MOST_ROWS:
        return f"{n * h * w} pixels are more than {_MOST_ROWS}"
    return f"{c} channels are more than {_MOST_CHANNELS}" if c > _MOST_CHANNELS else None


def forward_refusal(tail: Tail) -> str | None:
    """Why the kernels do not take a tail's forward, which updates running statistics besides; None where they do."""
    return refusal(tail) or _shared_buffers(tail)


def is_empty(tail: Tail) -> bool:
    """Whether an input has no elements: there is nothing to launch."""
    return any(branch.x.numel() == 0 for branch in tail.branches)


def _shared_buffers(tail: Tail) -> str | None:
    """Why running statistics cannot be updated by the kernels; None where they can."""
    norms = [b.norm for b in tail.branches if b.norm is not None and b.norm.training]
    if not all(_buffers_fit(norm) for norm in norms):
        return "running statistics are not contiguous, or num_batches_tracked is not int64"
    if len(norms) == 2 and _share_buffers(*norms):
        return "both norms update the same running statistics"
    return None


def _buffers_fit(norm: Norm) -> bool:
    batches = norm.num_batches_tracked
    tracked = [norm.running_mean, norm.running_var]
    return (batches is None or batches.dtype == torch.int64) and all(t is None or _is_plain(t) for t in tracked)


def _is_plain(vector: Tensor) -> bool:
    return vector.is_contiguous() and not vector.is_neg()


def _share_buffers(a: Norm, b: Norm) -> bool:
    def addresses(norm: Norm) -> set[Any]:
        buffers = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        return {_address(t) for t in buffers if t is not None}

    return bool(addresses(a) & addresses(b))


def _address(t: Tensor) -> Any:
    """Where a tensor's memory starts; of a fake one, which has none, whose memory it would be."""
    return (t.untyped_storage()._cdata, t.storage_offset()) if isinstance(t, FakeTensor) else t.data_ptr()


def _resolved(tail: Tail) -> Tail:
    """The same without views that negate: the kernels read memory, and the sign would be lost on them."""
    return replace(tail, branches=tuple(map(_resolved_branch, tail.branches)))


def _resolved_branch(branch: Branch) -> Branch:
    negated = any(tensor.is_neg() for _, tensor in named_tensors(branch))
    return with_tensors(branch, Tensor.resolve_neg) if negated else branch
