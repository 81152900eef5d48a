"""The residual tail in plain PyTorch, without saving a pre-norm tensor.

A batch norm behind a 1x1 convolution p = x W^T gets its statistics from the mean mu and the covariance Cov of x:

    mean_p = W mu        var_p = diag(W Cov W^T)        a = gamma / sqrt(var_p + eps)

so the norm folds into the product, and p need not exist. The mathematics, backward included, is section 3 of
``docs/design.md``, with x centred: x_c = x - mu takes the place of x, the correction terms in mu vanish, and inputs
whose mean is large against their spread lose no accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from . import reference
from .autograd import compute_tail, needs_backward
from .branches import Activation, Branch, Direct, Norm, Projection, ZeroPad, output_shape
from .checks import HALF_DTYPES
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
    upsample,
)
from .strategy import Problem, current_strategy, decide

# Operations of plain PyTorch's float32 convolutions in the time of moving one byte: a few CPU cores, a large GPU.
_OPERATIONS_PER_BYTE = {"cpu": 8.0, "cuda": 64.0}


def residual_tail(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    """The same as `reference.residual_tail`, with less saved for backward. Double backward raises."""
    branches = [main] if shortcut is None else [main, shortcut]
    nothing_to_gain = not any(isinstance(b, Projection) or b.norm is not None for b in branches)
    if nothing_to_gain or main.x.numel() == 0:
        return reference.residual_tail(main, shortcut, activation)
    backward = needs_backward(branches)
    paths = [choose_path(branch, backward) for branch in branches]
    return compute_tail(_Paths(paths, activation), branches, activation)


class _Paths:
    """A tail by one path for each branch."""

    def __init__(self, paths: Sequence[Path], activation: Activation) -> None:
        self._paths, self._activation = paths, activation

    def forward(self, operands: Sequence[Operands]) -> tuple[Tensor, list[Saved]]:
        results = [path.forward(own) for path, own in zip(self._paths, operands, strict=True)]
        y = _sum([addend for addend, _ in results], self._paths)
        return y.relu_() if self._activation == "relu" else y, [saved for _, saved in results]

    def backward(self, dy: Tensor, y: Tensor | None, saved: Sequence[Saved], needs: Sequence[Needs]) -> list[Gradients]:
        g = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
        each = zip(self._paths, saved, needs, strict=True)
        return [path.backward(g, kept, asked) for path, kept, asked in each]


def _sum(addends: list[Tensor], paths: Sequence[Path]) -> Tensor:
    """The addends' sum in memory that is ours to write, in the memory format that ``a + b`` would have."""
    if len(addends) == 1:
        return addends[0]
    a, b = addends
    if paths[0].owns_addend:
        return a.add_(b)
    if paths[1].owns_addend and a.stride() == b.stride():
        return b.add_(a)
    return a + b


def choose_path(branch: Branch, backward: bool) -> Path:
    """How a branch is computed; `backward` says whether gradients will be asked for."""
    if isinstance(branch, ZeroPad):
        return ZeroPadPath(branch)
    # Paths outlive the forward: they get gamma and beta as operands and must not keep these alive beside them.
    norm = None if branch.norm is None else replace(branch.norm, weight=None, bias=None)
    if isinstance(branch, Direct):
        return IdentityPath() if norm is None else NormPath(norm)
    if norm is None:
        return ProductPath(branch.stride)
    if not _takes_moments(branch, norm, backward):
        return MaterialisedPath(norm, branch.stride)
    return (MomentsPath if norm.training else FoldedPath)(norm, branch.stride)


def _takes_moments(branch: Projection, norm: Norm, backward: bool) -> bool:
    chosen = current_strategy()
    if chosen != "auto":
        return chosen == "moments"
    # Plain PyTorch cannot multiply half-precision operands into a float32 result, and weights or products rounded to
    # half precision would cost accuracy wherever the formulas subtract.
    if branch.x.dtype in HALF_DTYPES:
        return False
    if not norm.training:
        return True
    n, c, h, w = output_shape(branch)
    problem = Problem(n * h * w, branch.x.shape[1], c, branch.x.element_size(), backward)
    return decide(problem, _OPERATIONS_PER_BYTE.get(branch.x.device.type, 64.0)) == "moments"


class MomentsPath:
    """A projection and its training norm from the moments of x; saves x, vectors and Cov."""

    owns_addend = True

    def __init__(self, norm: Norm, stride: int) -> None:
        self._norm, self._stride = norm, stride

    def forward(self, operands: Operands) -> tuple[Tensor, Saved]:
        x, weight, bias, gamma, beta = operands
        assert weight is not None
        xc, mu = _centred(x, self._stride)
        rows = xc.numel() // xc.shape[1]
        cov = _transposed_product(xc, xc) / rows
        w = _matrix(weight)
        # Rounding alone can make the quadratic form of a positive semi-definite Cov negative; NaN stays NaN.
        var = ((w @ cov) * w).sum(1).clamp_min(0)
        self._update_running_statistics(w @ mu if bias is None else w @ mu + bias, var, rows)
        invstd = (var + self._norm.eps).rsqrt()
        a = invstd if gamma is None else gamma * invstd
        shift = None if beta is None else beta.to(xc.dtype)
        addend = F.conv2d(xc, _scaled_rows(weight, a, xc.dtype), shift).to(x.dtype)
        return addend, (x, weight, gamma, mu, invstd, cov)

    def _update_running_statistics(self, mean: Tensor, var: Tensor, rows: int) -> None:
        norm, factor = self._norm, self._norm.count_batch()
        if norm.running_mean is None or norm.running_var is None:
            return
        # By way of `data`, as F.batch_norm does it: an earlier batch norm on the same buffers may be waiting for its
        # backward, which is not affected, and must not be refused for their version.
        norm.running_mean.data.mul_(1 - factor).add_(mean, alpha=factor)
        norm.running_var.data.mul_(1 - factor).add_(var, alpha=factor * rows / (rows - 1))

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients:
        x, weight, gamma, mu, invstd, cov = saved
        g, w = g.to(mu.dtype), _matrix(weight)
        xc = _centred(x, self._stride, mu)[0]
        rows = xc.numel() // xc.shape[1]
        db = g.sum((0, 2, 3))
        g_xc = _transposed_product(g, xc)
        dgamma = (w * g_xc).sum(1) * invstd
        a = invstd if gamma is None else gamma * invstd
        dweight = dx = None
        if needs.weight:
            dweight = _kernel(a[:, None] * (g_xc - (dgamma * invstd)[:, None] * (w @ cov)))
        if needs.x:
            q = w.T @ ((a * dgamma * invstd / rows)[:, None] * w)
            dx = F.conv2d(g, _kernel((a[:, None] * w).T), -(a * db / rows) @ w)
            dx = upsample(dx.sub_(F.conv2d(xc, _kernel(q))), x.shape, self._stride)
        # A bias ahead of a training norm changes nothing, so its gradient is zero.
        return Gradients(dx, dweight, torch.zeros_like(db), dgamma, db)


class FoldedPath:
    """A projection with its norm's running statistics folded into it; saves x and vectors."""

    owns_addend = True

    def __init__(self, norm: Norm, stride: int) -> None:
        self._norm, self._stride = norm, stride

    def forward(self, operands: Operands) -> tuple[Tensor, Saved]:
        x, weight, bias, gamma, beta = operands
        mean, var = self._norm.running_mean, self._norm.running_var
        assert weight is not None
        assert mean is not None
        assert var is not None
        exact = _accumulation_dtype(x)
        invstd = (var.to(exact) + self._norm.eps).rsqrt()
        a = invstd if gamma is None else gamma * invstd
        offset = mean.to(exact, copy=True) if bias is None else mean.to(exact) - bias
        shift = -a * offset if beta is None else beta.to(exact) - a * offset
        addend = F.conv2d(x.to(exact), _scaled_rows(weight, a, exact), shift, self._stride)
        return addend.to(x.dtype), (x, weight, gamma, offset, invstd)

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients:
        x, weight, gamma, offset, invstd = saved
        g, w = g.to(offset.dtype), _matrix(weight)
        db = g.sum((0, 2, 3))
        a = invstd if gamma is None else gamma * invstd
        dweight = dgamma = dx = None
        if needs.weight or needs.gamma:
            xc, mu = _centred(x, self._stride)
            g_xc = _transposed_product(g, xc)
            dweight = _kernel(a[:, None] * (g_xc + db[:, None] * mu))
            dgamma = ((w * g_xc).sum(1) + (w @ mu - offset) * db) * invstd
        if needs.x:
            dx = upsample(F.conv2d(g, _kernel((a[:, None] * w).T)), x.shape, self._stride)
        return Gradients(dx, dweight, a * db, dgamma, db)


def _centred(x: Tensor, stride: int, mu: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x - mu on the pixels that the projection reads, and mu (K,), in the accumulation dtype and x's memory format."""
    read = reference.subsample(x, stride).to(_accumulation_dtype(x))
    mu = read.mean((0, 2, 3)) if mu is None else mu
    centred = torch.empty(read.shape, dtype=read.dtype, device=x.device, memory_format=memory_format(x))
    return torch.sub(read, mu[:, None, None], out=centred), mu


def _transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b of two activations seen as matrices of M rows: what a 1x1 convolution's weight gradient is."""
    product: Tensor = conv2d_weight(b, [a.shape[1], b.shape[1], 1, 1], a)  # type: ignore[no-untyped-call]
    return product.flatten(1)


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1).to(_accumulation_dtype(weight))


def _kernel(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None]


def _scaled_rows(weight: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
    """diag(a) W in the weight's own layout, which has a say in the convolution's memory format."""
    return torch.mul(weight, a[:, None, None, None], out=torch.empty_like(weight, dtype=dtype))


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in HALF_DTYPES else x.dtype
