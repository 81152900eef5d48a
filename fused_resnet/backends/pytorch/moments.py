"""A projection and its batch norm in plain PyTorch, without the pre-norm tensor.

A batch norm behind a 1x1 convolution p = x W^T gets its statistics from the mean mu and the covariance Cov of x:

    mean_p = W mu        var_p = diag(W Cov W^T)        a = gamma / sqrt(var_p + eps)

so the norm folds into the product, and p need not exist. The mathematics, backward included, is section 3 of
``docs/design.md``, with x centred: x_c = x - mu takes the place of x, the correction terms in mu vanish, and inputs
whose mean is large against their spread lose no accuracy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from ...operation import reference
from ...operation.branches import Norm, Projection
from ...operation.computation import Gradients, Needs, Statistics
from ...operation.layouts import accumulation_dtype, memory_format
from .branch_paths import upsample

_ROWS_A_SUM = 256


class MomentsPath:
    """A projection and its training norm from the moments of x."""

    owns_addend = True

    def __init__(self, branch: Projection) -> None:
        assert branch.norm is not None
        self._branch, self._norm = branch, branch.norm

    def forward(self) -> tuple[Tensor, Statistics]:
        x, weight, bias = self._branch.x, self._branch.weight, self._branch.bias
        xc, mu = centred(x, self._branch.stride)
        rows = xc.numel() // xc.shape[1]
        cov = covariance(xc)
        w = matrix_of(weight)
        var = projected_variance(w, cov).to(xc.dtype)
        self._update_running_statistics(w @ mu if bias is None else w @ mu + bias, var, rows)
        a, shift = scale_of(self._norm, var)[0], self._norm.bias
        shift = None if shift is None else shift.to(xc.dtype)
        addend = F.conv2d(xc, scaled_rows(weight, a, xc.dtype), shift).to(x.dtype)
        return addend, Statistics(None, var, mu, cov.to(xc.dtype))

    def _update_running_statistics(self, mean: Tensor, var: Tensor, rows: int) -> None:
        norm, factor = self._norm, self._norm.count_batch()
        if norm.running_mean is None or norm.running_var is None:
            return
        # Through `data`, as F.batch_norm does it: an earlier batch norm on the same buffers may be waiting for its
        # backward, which is not affected, and must not be refused for their version.
        norm.running_mean.data.mul_(1 - factor).add_(mean, alpha=factor)
        norm.running_var.data.mul_(1 - factor).add_(var, alpha=factor * rows / (rows - 1))

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        x, stride = self._branch.x, self._branch.stride
        _, var, mu, cov, _ = statistics
        assert var is not None
        assert mu is not None
        assert cov is not None
        g, w = g.to(mu.dtype), matrix_of(self._branch.weight)
        xc = centred(x, stride, mu)[0]
        rows = xc.numel() // xc.shape[1]
        db = g.sum((0, 2, 3))
        g_xc = transposed_product(g, xc)
        a, invstd = scale_of(self._norm, var)
        dgamma = (w * g_xc).sum(1) * invstd
        dweight = dx = None
        if needs.weight:
            dweight = kernel_of(a[:, None] * (g_xc - (dgamma * invstd)[:, None] * (w @ cov)))
        if needs.x:
            q = w.T @ ((a * dgamma * invstd / rows)[:, None] * w)
            dx = F.conv2d(g, kernel_of((a[:, None] * w).T), -(a * db / rows) @ w)
            dx = upsample(dx.sub_(F.conv2d(xc, kernel_of(q))), x.shape, stride)
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
        a = scale_of(self._norm, var)[0]
        shift = -a * offset if beta is None else beta.to(exact) - a * offset
        addend = F.conv2d(x.to(exact), scaled_rows(weight, a, exact), shift, self._branch.stride)
        return addend.to(x.dtype), Statistics(offset, var)

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        x, stride = self._branch.x, self._branch.stride
        offset, var, *_ = statistics
        assert offset is not None
        assert var is not None
        g, w = g.to(offset.dtype), matrix_of(self._branch.weight)
        db = g.sum((0, 2, 3))
        a, invstd = scale_of(self._norm, var)
        dweight = dgamma = dx = None
        if needs.weight or needs.gamma:
            xc, mu = centred(x, stride)
            g_xc = transposed_product(g, xc)
            dweight = kernel_of(a[:, None] * (g_xc + db[:, None] * mu))
            dgamma = ((w * g_xc).sum(1) + (w @ mu - offset) * db) * invstd
        if needs.x:
            dx = upsample(F.conv2d(g, kernel_of((a[:, None] * w).T)), x.shape, stride)
        return Gradients(dx, dweight, a * db, dgamma, db)


def scale_of(norm: Norm, var: Tensor) -> tuple[Tensor, Tensor]:
    """a = gamma / sqrt(var + eps) and 1 / sqrt(var + eps), both (C,)."""
    invstd = (var + norm.eps).rsqrt()
    return invstd if norm.weight is None else norm.weight * invstd, invstd


def centred(x: Tensor, stride: int, mu: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x - mu on the pixels that the projection reads, and mu (K,), in the accumulation dtype and x's memory format."""
    read = reference.subsample(x, stride).to(accumulation_dtype(x))
    mu = read.mean((0, 2, 3), dtype=torch.float64).to(read.dtype) if mu is None else mu
    centred = torch.empty(read.shape, dtype=read.dtype, device=x.device, memory_format=memory_format(x))
    return torch.sub(read, mu[:, None, None], out=centred), mu


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b of two activations seen as matrices of M rows: what a 1x1 convolution's weight gradient is."""
    product: Tensor = conv2d_weight(b, [a.shape[1], b.shape[1], 1, 1], a)
    return product.flatten(1)


def covariance(xc: Tensor) -> Tensor:
    """Cov = x_c^T x_c / M, (K, K), in float64: terms cancel in W Cov W^T where channels move together.

    Products are summed over few rows in the type of x_c, and these sums in float64.
    """
    channels = xc.shape[1]
    rows = xc.movedim(1, 3).reshape(-1, channels)
    size = max(_ROWS_A_SUM, channels)  # so that the sums are no larger than x
    whole = len(rows) // size * size
    parts = rows[:whole].view(-1, size, channels)
    total = torch.bmm(parts.transpose(1, 2), parts).sum(0, dtype=torch.float64)
    return total.addmm_(rows[whole:].T.double(), rows[whole:].double()) / len(rows)


def projected_variance(w: Tensor, cov: Tensor) -> Tensor:
    """diag(W Cov W^T) in float64, (C,)."""
    # Rounding alone can make the quadratic form of a positive semi-definite Cov negative; NaN stays NaN.
    return ((w.double() @ cov) * w).sum(1).clamp_min(0)


def cancellation(branch: Projection) -> float:
    """How many times rounding errors of Cov are magnified in the variances: root mean square over their channels.

    It is the ratio of sum_k w_k^2 Cov_kk, the variance that independent channels of x would give, to the variance: 1
    where they are independent, and large where they move together and W takes differences of them. Relative errors of
    Cov's elements by eps, each by itself, add up to this multiple of eps.
    """
    cov = covariance(centred(branch.x, branch.stride)[0])
    w = matrix_of(branch.weight).double()
    ratios = w.square() @ cov.diagonal() / projected_variance(w, cov)
    ratios = ratios[ratios.isfinite()]
    return ratios.square().mean().sqrt().item() if len(ratios) else 1.0


def matrix_of(weight: Tensor) -> Tensor:
    return weight.flatten(1).to(accumulation_dtype(weight))


def kernel_of(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None]


def scaled_rows(weight: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
    """diag(a) W in the weight's own layout, which has a say in the convolution's memory format."""
    return torch.mul(weight, a[:, None, None, None], out=torch.empty_like(weight, dtype=dtype))
