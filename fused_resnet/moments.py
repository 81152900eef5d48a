"""The residual tail in plain PyTorch, without saving a pre-norm tensor.

A batch norm behind a 1x1 convolution p = x W^T gets its statistics from the mean mu and the covariance Cov of x:

    mean_p = W mu        var_p = diag(W Cov W^T)        a = gamma / sqrt(var_p + eps)

so the norm folds into the product, and p need not exist. The mathematics, backward included, is section 3 of
``docs/design.md``, with x centred: x_c = x - mu takes the place of x, the correction terms in mu vanish, and inputs
whose mean is large against their spread lose no accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from . import reference
from ._autocast import autocast_off
from .branches import Branch, Direct, Norm, Projection, ZeroPad
from .checks import HALF_DTYPES
from .memory import accumulation_dtype, memory_format, vector_dtype
from .paths import IdentityPath, MaterialisedPath, NormPath, Path, ProductPath, ZeroPadPath, upsample
from .strategy import Strategy, StrategyChoice, current_strategy, decide, problem_of
from .tail import Gradients, Needs, Statistics, Tail

# Operations of plain PyTorch's float32 convolutions in the time of moving one byte: a few CPU cores, a large GPU.
_OPERATIONS_PER_BYTE = {"cpu": 8.0, "cuda": 64.0}


class ReferenceComputation:
    """Tails by PyTorch's own operators, one path for each branch."""

    def strategy(self, branch: Projection, backward: bool) -> Strategy:
        # Plain PyTorch cannot multiply half-precision operands into a float32 result, and weights or products rounded
        # to half precision would cost accuracy wherever the formulas subtract.
        if current_strategy() == "auto":
            if branch.x.dtype in HALF_DTYPES:
                return "materialise"
            if branch.norm is not None and not branch.norm.training:
                return "moments"
        return decide(problem_of(branch, backward), _OPERATIONS_PER_BYTE.get(branch.x.device.type, 64.0))

    def forward(self, tail: Tail, keep: bool) -> tuple[Tensor, list[Statistics]]:
        with autocast_off(tail.branches[0].x):
            paths = _paths(tail)
            results = [path.forward() for path in paths]
            y = _sum([addend for addend, _ in results], paths)
            return y.relu_() if tail.relu else y, [statistics for _, statistics in results]

    def backward(
        self, tail: Tail, dy: Tensor, y: Tensor | None, statistics: Sequence[Statistics], needs: Sequence[Needs]
    ) -> list[Gradients]:
        with autocast_off(dy):
            g = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
            each = zip(_paths(tail), statistics, needs, strict=True)
            found = [path.backward(g, kept, asked) for path, kept, asked in each]
        return [_as_asked(*of, dy) for of in zip(tail.branches, found, needs, strict=True)]


def _as_asked(branch: Branch, found: Gradients, needs: Needs, dy: Tensor) -> Gradients:
    """Only the gradients that are needed, in their tensors' dtypes and x's memory format."""
    x, weight, bias, gamma, beta = found
    dtype = vector_dtype(branch)
    return Gradients(
        x=x.to(dy.dtype).contiguous(memory_format=memory_format(branch.x)) if x is not None and needs.x else None,
        weight=weight.to(dy.dtype) if weight is not None and needs.weight else None,
        bias=bias.to(dy.dtype) if bias is not None and needs.bias else None,
        gamma=gamma.to(dtype) if gamma is not None and needs.gamma else None,
        beta=beta.to(dtype) if beta is not None and needs.beta else None,
    )


def _sum(addends: list[Tensor], paths: Sequence[Path]) -> Tensor:
    """The addends' sum in memory that is ours to write, in the memory format that ``a + b`` would have."""
    if len(addends) == 1:
        return addends[0] if paths[0].owns_addend else addends[0].clone()
    a, b = addends
    if paths[0].owns_addend:
        return a.add_(b)
    if paths[1].owns_addend and a.stride() == b.stride():
        return b.add_(a)
    return a + b


def _paths(tail: Tail) -> list[Path]:
    return [_path(*of) for of in zip(tail.branches, tail.strategies, strict=True)]


def _path(branch: Branch, strategy: StrategyChoice) -> Path:
    if isinstance(branch, ZeroPad):
        return ZeroPadPath(branch)
    if isinstance(branch, Direct):
        return IdentityPath(branch) if branch.norm is None else NormPath(branch.x, branch.norm)
    if branch.norm is None:
        return ProductPath(branch)
    if strategy == "materialise":
        return MaterialisedPath(branch)
    return (MomentsPath if branch.norm.training else FoldedPath)(branch)


class MomentsPath:
    """A projection and its training norm from the moments of x."""

    owns_addend = True

    def __init__(self, branch: Projection) -> None:
        assert branch.norm is not None
        self._branch, self._norm = branch, branch.norm

    def forward(self) -> tuple[Tensor, Statistics]:
        x, weight, bias = self._branch.x, self._branch.weight, self._branch.bias
        xc, mu = _centred(x, self._branch.stride)
        rows = xc.numel() // xc.shape[1]
        cov = _transposed_product(xc, xc) / rows
        w = _matrix(weight)
        # Rounding alone can make the quadratic form of a positive semi-definite Cov negative; NaN stays NaN.
        var = ((w @ cov) * w).sum(1).clamp_min(0)
        self._update_running_statistics(w @ mu if bias is None else w @ mu + bias, var, rows)
        a, shift = _scale(self._norm, var)[0], self._norm.bias
        shift = None if shift is None else shift.to(xc.dtype)
        addend = F.conv2d(xc, _scaled_rows(weight, a, xc.dtype), shift).to(x.dtype)
        return addend, Statistics(None, var, mu, cov)

    def _update_running_statistics(self, mean: Tensor, var: Tensor, rows: int) -> None:
        norm, factor = self._norm, self._norm.count_batch()
        if norm.running_mean is None or norm.running_var is None:
            return
        # By way of `data`, as F.batch_norm does it: an earlier batch norm on the same buffers may be waiting for its
        # backward, which is not affected, and must not be refused for their version.
        norm.running_mean.data.mul_(1 - factor).add_(mean, alpha=factor)
        norm.running_var.data.mul_(1 - factor).add_(var, alpha=factor * rows / (rows - 1))

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        x, stride = self._branch.x, self._branch.stride
        _, var, mu, cov = statistics
        assert var is not None
        assert mu is not None
        assert cov is not None
        g, w = g.to(mu.dtype), _matrix(self._branch.weight)
        xc = _centred(x, stride, mu)[0]
        rows = xc.numel() // xc.shape[1]
        db = g.sum((0, 2, 3))
        g_xc = _transposed_product(g, xc)
        a, invstd = _scale(self._norm, var)
        dgamma = (w * g_xc).sum(1) * invstd
        dweight = dx = None
        if needs.weight:
            dweight = _kernel(a[:, None] * (g_xc - (dgamma * invstd)[:, None] * (w @ cov)))
        if needs.x:
            q = w.T @ ((a * dgamma * invstd / rows)[:, None] * w)
            dx = F.conv2d(g, _kernel((a[:, None] * w).T), -(a * db / rows) @ w)
            dx = upsample(dx.sub_(F.conv2d(xc, _kernel(q))), x.shape, stride)
        # A bias ahead of a training norm changes nothing, so its gradient is zero.
        return Gradients(dx, dweight, torch.zeros_like(db), dgamma, db)


class FoldedPath:
    """A projection with its norm's running statistics folded into it."""

    owns_addend = True

    def __init__(self, branch: Projection) -> None:
        assert branch.norm is not None
        self._branch, self._norm = branch, branch.norm

    def forward(self) -> tuple[Tensor, Statistics]:
        x, weight, bias, beta = self._branch.x, self._branch.weight, self._branch.bias, self._norm.bias
        mean, var = self._norm.running_mean, self._norm.running_var
        assert mean is not None
        assert var is not None
        exact = accumulation_dtype(x)
        # Copies: a training step between this forward and its backward must not change the gradient.
        var = var.to(exact, copy=True)
        offset = mean.to(exact, copy=True) if bias is None else mean.to(exact) - bias
        a = _scale(self._norm, var)[0]
        shift = -a * offset if beta is None else beta.to(exact) - a * offset
        addend = F.conv2d(x.to(exact), _scaled_rows(weight, a, exact), shift, self._branch.stride)
        return addend.to(x.dtype), Statistics(offset, var)

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        x, stride = self._branch.x, self._branch.stride
        offset, var, *_ = statistics
        assert offset is not None
        assert var is not None
        g, w = g.to(offset.dtype), _matrix(self._branch.weight)
        db = g.sum((0, 2, 3))
        a, invstd = _scale(self._norm, var)
        dweight = dgamma = dx = None
        if needs.weight or needs.gamma:
            xc, mu = _centred(x, stride)
            g_xc = _transposed_product(g, xc)
            dweight = _kernel(a[:, None] * (g_xc + db[:, None] * mu))
            dgamma = ((w * g_xc).sum(1) + (w @ mu - offset) * db) * invstd
        if needs.x:
            dx = upsample(F.conv2d(g, _kernel((a[:, None] * w).T)), x.shape, stride)
        return Gradients(dx, dweight, a * db, dgamma, db)


def _scale(norm: Norm, var: Tensor) -> tuple[Tensor, Tensor]:
    """a = gamma / sqrt(var + eps) and 1 / sqrt(var + eps), both (C,)."""
    invstd = (var + norm.eps).rsqrt()
    return invstd if norm.weight is None else norm.weight * invstd, invstd


def _centred(x: Tensor, stride: int, mu: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x - mu on the pixels that the projection reads, and mu (K,), in the accumulation dtype and x's memory format."""
    read = reference.subsample(x, stride).to(accumulation_dtype(x))
    mu = read.mean((0, 2, 3)) if mu is None else mu
    centred = torch.empty(read.shape, dtype=read.dtype, device=x.device, memory_format=memory_format(x))
    return torch.sub(read, mu[:, None, None], out=centred), mu


def _transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b of two activations seen as matrices of M rows: what a 1x1 convolution's weight gradient is."""
    product: Tensor = conv2d_weight(b, [a.shape[1], b.shape[1], 1, 1], a)  # type: ignore[no-untyped-call]
    return product.flatten(1)


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1).to(accumulation_dtype(weight))


def _kernel(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None]


def _scaled_rows(weight: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
    """diag(a) W in the weight's own layout, which has a say in the convolution's memory format."""
    return torch.mul(weight, a[:, None, None, None], out=torch.empty_like(weight, dtype=dtype))
