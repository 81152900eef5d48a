"""How one branch of a tail is computed, forward and backward, and the paths that need only PyTorch's own operators.

A path is made for one direction of one call. `forward` gives the branch's addend and its statistics, `backward` takes
the addend's gradient g and gives those of the branch's tensors. The paths that derive a norm's statistics from the
projection's input are in `fused_resnet.backends.pytorch.moments`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...operation import reference
from ...operation.branches import Direct, Norm, Projection, ZeroPad
from ...operation.computation import Gradients, Needs, Statistics
from ...operation.layouts import accumulation_dtype, empty_statistics, memory_format


class Path(Protocol):
    """One branch's computation; `owns_addend` says that nobody else sees the addend's memory."""

    owns_addend: bool

    def forward(self) -> tuple[Tensor, Statistics]: ...

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients: ...


class IdentityPath:
    """The tensor itself."""

    owns_addend = False

    def __init__(self, branch: Direct) -> None:
        self._x = branch.x

    def forward(self) -> tuple[Tensor, Statistics]:
        return self._x, Statistics()

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        return Gradients(x=g if needs.x else None)


class ZeroPadPath:
    """Option A."""

    owns_addend = True

    def __init__(self, branch: ZeroPad) -> None:
        self._branch = branch

    def forward(self) -> tuple[Tensor, Statistics]:
        return reference.source(self._branch), Statistics()

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        if not needs.x:
            return Gradients()
        shape = self._branch.x.shape
        own = g.narrow(1, self._branch.padding[0], shape[1])
        return Gradients(x=upsample(own, shape, self._branch.stride))


class ProductPath:
    """A projection without a norm."""

    owns_addend = True

    def __init__(self, branch: Projection) -> None:
        self._branch = branch

    def forward(self) -> tuple[Tensor, Statistics]:
        return reference.source(self._branch), Statistics()

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        x, weight, stride = self._branch.x, self._branch.weight, self._branch.stride
        # With stride 1, on the pixels that were read: on CPUs, strided backward convolutions are slow, and write out of
        # bounds in channels_last with fewer than 16 channels (oneDNN issue 6035).
        read = reference.subsample(x, stride).contiguous(memory_format=memory_format(x))
        mask, none, one = [needs.x, needs.weight, needs.bias], [0, 0], [1, 1]
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            g, read, weight, [weight.shape[0]], one, none, one, False, none, 1, mask
        )
        return Gradients(None if dx is None else upsample(dx, x.shape, stride), dweight, dbias)


class NormPath:
    """A batch norm on a given tensor."""

    owns_addend = True

    def __init__(self, z: Tensor, norm: Norm) -> None:
        self._z, self._norm = z, norm

    def forward(self) -> tuple[Tensor, Statistics]:
        norm, dtype = self._norm, accumulation_dtype(self._z)
        running = norm.running_mean, norm.running_var
        y, mean, invstd = torch.native_batch_norm(
            self._z, norm.weight, norm.bias, *running, norm.training, norm.count_batch(), norm.eps
        )
        if norm.training and mean.dtype == dtype:
            return y, Statistics(mean, invstd.pow(-2) - norm.eps)
        if norm.training:  # PyTorch has rounded them, on CPUs
            var, mean = torch.var_mean(self._z.to(dtype), (0, 2, 3), correction=0)
            return y, Statistics(mean, var)
        # Copies: a training step between this forward and its backward must not change the gradient.
        return y, Statistics(*(None if t is None else t.to(dtype, copy=True) for t in running))

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        norm, (mean, var, *_) = self._norm, statistics
        assert var is not None
        gamma = None if norm.weight is None else norm.weight.to(var.dtype)
        invstd = (var + norm.eps).rsqrt()
        vectors = (None, None, mean, invstd) if norm.training else (mean, var, None, None)
        mask = [needs.x, needs.gamma, needs.beta]
        dz, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            g, self._z, gamma, *vectors, norm.training, norm.eps, mask
        )
        return Gradients(x=dz, gamma=dgamma, beta=dbeta)


class EmptyPath:
    """A norm of no rows, as PyTorch's modules treat it: the batch is counted, and gradients are zeros."""

    owns_addend = False

    def __init__(self, branch: Direct | Projection) -> None:
        self._branch = branch

    def forward(self) -> tuple[Tensor, Statistics]:
        if self._branch.norm is not None and self._branch.norm.training:
            self._branch.norm.count_batch()
        each = empty_statistics(self._branch)
        return reference.source(self._branch), Statistics(*(None if t is None else t.zero_() for t in each))

    def backward(self, g: Tensor, statistics: Statistics, needs: Needs) -> Gradients:
        weight = torch.zeros_like(self._branch.weight) if isinstance(self._branch, Projection) else None
        vector = g.new_zeros(self._branch.out_channels)
        return Gradients(torch.zeros_like(self._branch.x), weight, vector, vector, vector)


def upsample(dx: Tensor, shape: torch.Size, stride: int) -> Tensor:
    """The adjoint of `reference.subsample`: the gradient of all of x, zeros where it was not read."""
    if stride == 1:
        return dx
    whole = torch.empty(shape, dtype=dx.dtype, device=dx.device, memory_format=memory_format(dx)).zero_()
    reference.subsample(whole, stride).copy_(dx)
    return whole
