"""The residual tail by the compiled kernels: one launch forward.

What the kernels do not take goes to `fused_resnet.moments`: float64, empty tensors, norms that share their buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import moments
from .autograd import compute_tail, needs_backward, operands_at
from .branches import Activation, Branch, Direct, Norm, Projection, ZeroPad, output_shape
from .checks import HALF_DTYPES
from .moments import FoldedPath, MomentsPath
from .paths import (
    Gradients,
    IdentityPath,
    MaterialisedPath,
    Needs,
    NormPath,
    Operands,
    Path,
    ProductPath,
    Saved,
    ZeroPadPath,
    memory_format,
)
from .strategy import Problem, decide

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# What the kernels index with 32 bits.
_MOST_ROWS, _MOST_CHANNELS = 2**31 - 2**13, 2**20


def residual_tail(module: ModuleType, main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    """The same as `reference.residual_tail`, by the kernels of a compiled module. Double backward raises."""
    branches = [main] if shortcut is None else [main, shortcut]
    backward = needs_backward(branches)
    if not _has_kernel(branches, backward):
        return moments.residual_tail(main, shortcut, activation)
    paths = [KernelPath(branch, backward) for branch in branches]
    return compute_tail(partial(_forward, module), paths, branches, activation)


def _has_kernel(branches: Sequence[Branch], backward: bool) -> bool:
    n, c, h, w = output_shape(branches[0])
    if branches[0].x.dtype not in _DTYPES or any(branch.x.numel() == 0 for branch in branches):
        return False
    if n * h * w > _MOST_ROWS or c > _MOST_CHANNELS:
        return False
    # A sum of plain tensors is autograd's own business: its backward is none, and may be differentiated again.
    if backward and not any(isinstance(b, Projection) or b.norm is not None for b in branches):
        return False
    norms = [b.norm for b in branches if b.norm is not None and b.norm.training]
    return all(_buffers_fit(norm) for norm in norms) and not (len(norms) == 2 and _share_buffers(*norms))


def _buffers_fit(norm: Norm) -> bool:
    batches = norm.num_batches_tracked
    tracked = [norm.running_mean, norm.running_var]
    return (batches is None or batches.dtype == torch.int64) and all(t is None or _is_plain(t) for t in tracked)


def _is_plain(vector: Tensor) -> bool:
    return vector.is_contiguous() and not vector.is_neg()


def _share_buffers(a: Norm, b: Norm) -> bool:
    def addresses(norm: Norm) -> set[int]:
        buffers = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        return {t.data_ptr() for t in buffers if t is not None}

    return bool(addresses(a) & addresses(b))


def _forward(
    module: Any, paths: Sequence[Any], activation: Activation, operands: Sequence[Tensor | None]
) -> tuple[Tensor, list[Saved]]:
    # The kernels read memory: a view that negates it (the imaginary part of a conjugate) would be lost on them.
    plain = [None if t is None else t.resolve_neg() for t in operands]
    own = [operands_at(plain, i) for i in range(len(paths))]
    y = _empty_output([path.addend_layout(o) for path, o in zip(paths, own, strict=True)], own[0].x)
    described = [path.describe(module, o) for path, o in zip(paths, own, strict=True)]
    call = module.Forward(
        main=described[0],
        shortcut=described[1] if len(described) == 2 else None,
        y=y,
        relu=activation == "relu",
        tf32=torch.backends.cudnn.allow_tf32,
    )
    call.run()
    return y, [path.saved(o, call.statistics(i)) for i, (path, o) in enumerate(zip(paths, own, strict=True))]


def _empty_output(layouts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Memory for the output, laid out as the sum of addends with these layouts would be."""
    layout = layouts[0] if len(layouts) == 1 else layouts[0] + layouts[1]
    if not torch.ops.aten.is_non_overlapping_and_dense(layout):
        layout = torch.empty_like(layout)
    return torch.empty_strided(layout.shape, layout.stride(), dtype=like.dtype, device=like.device)


class KernelPath:
    """A branch whose forward is part of the tail's launch, and whose backward is that of a path in plain PyTorch."""

    def __init__(self, branch: Branch, backward: bool) -> None:
        self._shape, self._stride, self._backward = output_shape(branch), branch.stride, backward
        # The path outlives the forward: it gets gamma and beta as operands and must not keep these alive beside them.
        self._norm = None if branch.norm is None else replace(branch.norm, weight=None, bias=None)
        self._source = {Direct: "direct", ZeroPad: "zero_pad", Projection: "projection"}[type(branch)]
        self._channels_before = branch.padding[0] if isinstance(branch, ZeroPad) else 0
        self._materialise = not (isinstance(branch, Projection) and _takes_moments(branch, backward))
        self._path: Path = moments.choose_path(branch, backward, not self._materialise)

    def addend_layout(self, operands: Operands) -> Tensor:
        """A tensor without memory in the layout that the unfused operations give to the addend."""
        x, weight = operands.x, operands.weight
        if isinstance(self._path, IdentityPath):
            return torch.empty_strided(x.shape, x.stride(), device="meta")
        formats = [memory_format(t) for t in (x, weight) if t is not None]
        chosen = torch.channels_last if torch.channels_last in formats else torch.contiguous_format
        return torch.empty(self._shape, device="meta", memory_format=chosen)

    def describe(self, module: Any, operands: Operands) -> Any:
        """The branch as the compiled module takes it."""
        return module.Branch(
            source=self._source,
            x=operands.x,
            stride=self._stride,
            channels_before=self._channels_before,
            weight=operands.weight,
            bias=_contiguous(operands.bias),
            norm=None if self._norm is None else self._describe_norm(module, self._norm, operands),
            materialise=self._materialise,
        )

    def _describe_norm(self, module: Any, norm: Norm, operands: Operands) -> Any:
        running = (norm.running_mean, norm.running_var)
        mean, var = running if norm.training else map(_contiguous, running)
        return module.Norm(
            weight=_contiguous(operands.gamma),
            bias=_contiguous(operands.beta),
            running_mean=mean,
            running_var=var,
            num_batches_tracked=norm.num_batches_tracked if norm.training else None,
            momentum=norm.momentum,
            eps=norm.eps,
            training=norm.training,
        )

    def saved(self, operands: Operands, statistics: Any) -> Saved:
        """What the path keeps for backward, with the variance in place of what its backward derives from it."""
        x, weight, bias, gamma, _ = operands
        if not self._backward or isinstance(self._path, IdentityPath | ZeroPadPath):
            return ()
        if isinstance(self._path, ProductPath):
            return x, weight
        if isinstance(self._path, MomentsPath):
            return x, weight, gamma, statistics.mu, statistics.var, statistics.cov
        vectors = self._vectors(statistics)
        return (x, gamma, *vectors) if isinstance(self._path, NormPath) else (x, weight, bias, gamma, *vectors)

    def _vectors(self, statistics: Any) -> tuple[Tensor, Tensor]:
        norm = self._norm
        assert norm is not None
        if norm.training:
            return statistics.mean, statistics.var
        assert norm.running_mean is not None
        assert norm.running_var is not None
        # Copies: a training step between this forward and its backward must not change the gradient.
        return norm.running_mean.clone(), norm.running_var.clone()

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients:
        return self._path.backward(g, self._completed(saved), needs)

    def _completed(self, saved: Saved) -> Saved:
        """`saved` as the path's own forward would have kept it."""
        norm, path = self._norm, self._path
        if norm is None:
            return saved
        if isinstance(path, MomentsPath):
            x, weight, gamma, mu, var, cov = saved
            return x, weight, gamma, mu, _invstd(var, norm), cov
        *kept, gamma, mean, var = saved
        mean, var = mean.float(), var.float()
        if isinstance(path, FoldedPath):
            x, weight, bias = kept
            return x, weight, gamma, _plus_bias(mean, bias, -1), _invstd(var, norm)
        # In float32, as the statistics are: the operator takes vectors of one type.
        gamma = torch.ones_like(mean) if gamma is None else gamma.float()
        if isinstance(path, MaterialisedPath):
            mean = _plus_bias(mean, kept[2], 1)
        return *kept, gamma, mean, _invstd(var, norm) if norm.training else var


def _takes_moments(branch: Projection, backward: bool) -> bool:
    if branch.norm is None or not branch.norm.training:
        return True
    n, c, h, w = output_shape(branch)
    problem = Problem(n * h * w, branch.x.shape[1], c, branch.x.element_size(), backward)
    return decide(problem, _operations_per_byte(branch.x.dtype)) == "moments"


def _operations_per_byte(dtype: torch.dtype) -> float:
    """What a large GPU does in the time of moving one byte: on tensor cores in half precision, or on CUDA cores.

    With tf32, x^T x takes three products for one (``csrc/products.cuh``): a third of the tensor cores' rate.
    """
    if dtype in HALF_DTYPES:
        return 180.0
    return 30.0 if torch.backends.cudnn.allow_tf32 else 14.0


def _contiguous(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def _invstd(var: Tensor, norm: Norm) -> Tensor:
    return (var + norm.eps).rsqrt()


def _plus_bias(mean: Tensor, bias: Tensor | None, sign: int) -> Tensor:
    return mean if bias is None else mean + sign * bias
