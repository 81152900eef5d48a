"""The paths of norms that share their statistics between processes, which exchange vectors on the way.

In the place of `forward`: `summarise`, the exchange, `addend`. In the place of `backward`: `sums`, the exchange,
`backward`. The mathematics is in ``docs/design.md``, section 3, "Several processes". A process may have no rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ...operation import reference
from ...operation.branches import Direct, Projection
from ...operation.computation import Gradients, Needs, Statistics
from ...operation.layouts import accumulation_dtype
from .branch_paths import upsample
from .moments import (
    centred,
    covariance,
    kernel_of,
    matrix_of,
    projected_variance,
    scale_of,
    scaled_rows,
    transposed_product,
)


class SharedPath(ABC):
    """One branch's computation; `statistics` are those after the exchange."""

    owns_addend = True

    def __init__(self, branch: Direct | Projection) -> None:
        assert branch.norm is not None
        self._norm = branch.norm

    @abstractmethod
    def summarise(self) -> Statistics:
        """The statistics of this process's rows. It always gives mean and var: zeros if there are no rows."""

    @abstractmethod
    def addend(self, statistics: Statistics) -> Tensor: ...

    @abstractmethod
    def sums(self, g: Tensor, statistics: Statistics) -> Tensor:
        """db and dgamma of this process's rows, (2, C)."""

    @abstractmethod
    def backward(self, g: Tensor, statistics: Statistics, own: Tensor, shared: Tensor, needs: Needs) -> Gradients:
        """`own` is what `sums` gave, `shared` those of all processes times this one's share of the rows."""


def shared_path(branch: Direct | Projection) -> SharedPath:
    """The path of a branch."""
    return SharedMomentsPath(branch) if isinstance(branch, Projection) else SharedNormPath(branch)


class SharedNormPath(SharedPath):
    """A norm on a given tensor."""

    def __init__(self, branch: Direct) -> None:
        super().__init__(branch)
        self._z = branch.x

    def summarise(self) -> Statistics:
        if self._z.numel() == 0:
            vector = self._z.new_zeros(self._z.shape[1], dtype=accumulation_dtype(self._z))
            return Statistics(vector, vector)
        var, mean = torch.var_mean(self._z.to(accumulation_dtype(self._z)), (0, 2, 3), correction=0)
        return Statistics(mean, var)

    def addend(self, statistics: Statistics) -> Tensor:
        mean, var, *_ = statistics
        assert var is not None
        gamma, beta = (None if t is None else t.to(var.dtype) for t in (self._norm.weight, self._norm.bias))
        return F.batch_norm(self._z, mean, var, gamma, beta, training=False, eps=self._norm.eps)

    def sums(self, g: Tensor, statistics: Statistics) -> Tensor:
        normalised = self._normalised(statistics)
        g = g.to(normalised.dtype)
        return torch.stack((_row_sums(g), _row_sums(g * normalised)))

    def _normalised(self, statistics: Statistics) -> Tensor:
        mean, var, *_ = statistics
        assert mean is not None
        assert var is not None
        invstd = (var + self._norm.eps).rsqrt()
        return (self._z.to(var.dtype) - mean[:, None, None]) * invstd[:, None, None]

    def backward(self, g: Tensor, statistics: Statistics, own: Tensor, shared: Tensor, needs: Needs) -> Gradients:
        assert statistics.var is not None
        a, rows = scale_of(self._norm, statistics.var)[0], max(g.numel() // g.shape[1], 1)
        db, dgamma = (shared / rows)[:, :, None, None]
        dz = (a[:, None, None] * (g - db - self._normalised(statistics) * dgamma)).to(g.dtype)
        return Gradients(x=dz, gamma=own[1], beta=own[0])


class SharedMomentsPath(SharedPath):
    """A projection and its norm from the moments of x."""

    def __init__(self, branch: Projection) -> None:
        super().__init__(branch)
        self._branch = branch

    def summarise(self) -> Statistics:
        x, stride = self._branch.x, self._branch.stride
        if x.numel() == 0:
            return _of_no_rows(self._branch)
        self._xc, mu = centred(x, stride)
        cov = covariance(self._xc)
        w = matrix_of(self._branch.weight)
        return Statistics(w @ mu, projected_variance(w, cov).to(mu.dtype), mu, cov.to(mu.dtype))

    def addend(self, statistics: Statistics) -> Tensor:
        x, weight, beta = self._branch.x, self._branch.weight, self._norm.bias
        if x.numel() == 0:
            return reference.source(self._branch)
        a, _, distance, _ = self._scales(statistics)
        shift = a * distance if beta is None else a * distance + beta
        dtype = self._xc.dtype
        return F.conv2d(self._xc, scaled_rows(weight, a, dtype), shift.to(dtype)).to(x.dtype)

    def _scales(self, statistics: Statistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, 1 / std and d_i, (C,) each, and mu_i, (K,)."""
        mean, var, mu, _, own_mean = statistics
        assert mean is not None
        assert var is not None
        assert mu is not None
        assert own_mean is not None
        return *scale_of(self._norm, var), own_mean - mean, mu

    def sums(self, g: Tensor, statistics: Statistics) -> Tensor:
        _, invstd, distance, mu = self._scales(statistics)
        db, g_xc = _row_sums(g.to(mu.dtype)), self._product(g, mu)
        return torch.stack((db, ((matrix_of(self._branch.weight) * g_xc).sum(1) + distance * db) * invstd))

    def _product(self, g: Tensor, mu: Tensor) -> Tensor:
        """G_i, (C, K)."""
        if g.numel() == 0:
            return mu.new_zeros(g.shape[1], len(mu))
        return transposed_product(g.to(mu.dtype), centred(self._branch.x, self._branch.stride, mu)[0])

    def backward(self, g: Tensor, statistics: Statistics, own: Tensor, shared: Tensor, needs: Needs) -> Gradients:
        x, stride, w = self._branch.x, self._branch.stride, matrix_of(self._branch.weight)
        a, invstd, distance, mu = self._scales(statistics)
        assert statistics.cov is not None
        rows = max(g.numel() // g.shape[1], 1)
        slope = shared[1] * invstd  # dgamma / std
        distant = shared[0] + slope * distance  # S_i
        dweight = dx = None
        if needs.weight:
            product = self._product(g, mu) - slope[:, None] * (w @ statistics.cov)
            dweight = kernel_of(a[:, None] * (product + (own[0] - distant)[:, None] * mu))
        if needs.x and g.numel() == 0:
            dx = torch.zeros_like(x)
        elif needs.x:
            q = w.T @ ((a * slope / rows)[:, None] * w)
            dx = F.conv2d(g.to(mu.dtype), kernel_of((a[:, None] * w).T), -(a * distant / rows) @ w)
            dx = upsample(dx.sub_(F.conv2d(centred(x, stride, mu)[0], kernel_of(q))), x.shape, stride)
        return Gradients(dx, dweight, torch.zeros_like(own[0]), own[1], own[0])


def _of_no_rows(branch: Projection) -> Statistics:
    dtype = accumulation_dtype(branch.x)
    vector = branch.x.new_zeros(branch.out_channels, dtype=dtype)
    inputs = branch.x.shape[1]
    return Statistics(vector, vector, vector.new_zeros(inputs), vector.new_zeros(inputs, inputs))


def _row_sums(g: Tensor) -> Tensor:
    return g.sum((0, 2, 3))
