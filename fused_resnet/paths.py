"""How one branch of a tail is computed, forward and backward, and the paths that need only PyTorch's own operators.

A path is made for one call. `forward` takes the branch's differentiable tensors and returns its addend and what
backward needs; `backward` takes the addend's gradient g and returns theirs. The paths that derive a norm's statistics
from the projection's input are in `fused_resnet.moments`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .branches import Branch, Norm, Projection, ZeroPad


class Operands(NamedTuple):
    """The tensors of one branch that gradients flow to."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None


class Gradients(NamedTuple):
    """The operands' gradients; None where there is no operand or nobody asked."""

    x: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None


class Needs(NamedTuple):
    """Which gradients are asked for."""

    x: bool
    weight: bool
    bias: bool
    gamma: bool
    beta: bool


Saved: TypeAlias = tuple[Any, ...]


class Path(Protocol):
    """One branch's computation; `owns_addend` says that nobody else sees the addend's memory."""

    owns_addend: bool

    def forward(self, operands: Operands) -> tuple[Tensor, Saved]: ...

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients: ...


def operands_of(branch: Branch) -> Operands:
    """Flattens a branch for an autograd Function, which sees only tensors that are its own arguments."""
    weight, bias = (branch.weight, branch.bias) if isinstance(branch, Projection) else (None, None)
    gamma, beta = (branch.norm.weight, branch.norm.bias) if branch.norm is not None else (None, None)
    return Operands(branch.x, weight, bias, gamma, beta)


class IdentityPath:
    """The tensor itself; nothing is saved."""

    owns_addend = False

    def forward(self, operands: Operands) -> tuple[Tensor, Saved]:
        return operands.x, ()

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients:
        return Gradients(x=g if needs.x else None)


class ZeroPadPath:
    """Option A; nothing is saved."""

    owns_addend = True

    def __init__(self, branch: ZeroPad) -> None:
        self._shape, self._stride, self._before = branch.x.shape, branch.stride, branch.padding[0]
        self._out_channels, self._placement = branch.out_channels, branch.placement

    def forward(self, operands: Operands) -> tuple[Tensor, Saved]:
        return reference.source(ZeroPad(operands.x, self._out_channels, self._stride, self._placement)), ()

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients:
        if not needs.x:
            return Gradients()
        return Gradients(x=upsample(g.narrow(1, self._before, self._shape[1]), self._shape, self._stride))


class ProductPath:
    """A projection without a norm; x and the weight are saved, as a convolution does."""

    owns_addend = True

    def __init__(self, stride: int) -> None:
        self._stride = stride

    def forward(self, operands: Operands) -> tuple[Tensor, Saved]:
        return self.product(*operands[:3]), operands[:2]

    def product(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The pre-norm tensor, (N, C, Ho, Wo)."""
        assert weight is not None
        return F.conv2d(x, weight, bias, self._stride)

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients:
        x, weight = saved
        # With stride 1, on the pixels that were read: on CPUs, strided backward convolutions are slow, and write out of
        # bounds in channels_last with fewer than 16 channels (oneDNN issue 6035).
        read = reference.subsample(x, self._stride).contiguous(memory_format=memory_format(x))
        mask, none, one = [needs.x, needs.weight, needs.bias], [0, 0], [1, 1]
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            g, read, weight, [weight.shape[0]], one, none, one, False, none, 1, mask
        )
        return Gradients(None if dx is None else upsample(dx, x.shape, self._stride), dweight, dbias)


class NormPath:
    """A batch norm on a given tensor, which is saved, as ``F.batch_norm`` does."""

    owns_addend = True

    def __init__(self, norm: Norm) -> None:
        self._norm = norm

    def forward(self, operands: Operands) -> tuple[Tensor, Saved]:
        addend, vectors = self.normalise(operands.x, operands.gamma, operands.beta)
        return addend, (operands.x, operands.gamma, *vectors)

    def normalise(self, z: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Saved]:
        """The norm of z, with the vectors of the statistics that its backward needs."""
        norm = self._norm
        running: Saved = (norm.running_mean, norm.running_var)
        factor = norm.count_batch()
        y, mean, invstd = torch.native_batch_norm(
            z, gamma, beta, running[0], running[1], norm.training, factor, norm.eps
        )
        if norm.training:
            return y, (mean, invstd)
        # Copies: a training step between this forward and its backward must not change the gradient.
        return y, tuple(statistic.clone() for statistic in running)

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients:
        z, gamma, *vectors = saved
        mask = [needs.x, needs.gamma, needs.beta]
        batch, running = (vectors, [None, None]) if self._norm.training else ([None, None], vectors)
        dz, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            g, z, gamma, *running, *batch, self._norm.training, self._norm.eps, mask
        )
        return Gradients(x=dz, gamma=dgamma, beta=dbeta)


class MaterialisedPath:
    """A projection and its norm by way of the pre-norm tensor, which backward computes again."""

    owns_addend = True

    def __init__(self, norm: Norm, stride: int) -> None:
        self._product, self._norm = ProductPath(stride), NormPath(norm)

    def forward(self, operands: Operands) -> tuple[Tensor, Saved]:
        x, weight, bias, gamma, beta = operands
        addend, vectors = self._norm.normalise(self._product.product(x, weight, bias), gamma, beta)
        return addend, (x, weight, bias, gamma, *vectors)

    def backward(self, g: Tensor, saved: Saved, needs: Needs) -> Gradients:
        x, weight, bias, gamma, *vectors = saved
        p = self._product.product(x, weight, bias)
        inner = needs._replace(x=needs.x or needs.weight or needs.bias)
        dp, _, _, dgamma, dbeta = self._norm.backward(g, (p, gamma, *vectors), inner)
        dx, dweight, dbias = (None, None, None)
        if dp is not None:
            dx, dweight, dbias, _, _ = self._product.backward(dp, (x, weight), needs)
        return Gradients(dx, dweight, dbias, dgamma, dbeta)


def upsample(dx: Tensor, shape: torch.Size, stride: int) -> Tensor:
    """The adjoint of `reference.subsample`: the gradient of all of x, zeros where it was not read."""
    if stride == 1:
        return dx
    whole = torch.empty(shape, dtype=dx.dtype, device=dx.device, memory_format=memory_format(dx)).zero_()
    reference.subsample(whole, stride).copy_(dx)
    return whole


def memory_format(x: Tensor) -> torch.memory_format:
    """The format that PyTorch's convolutions see in x (N, C, H, W): channels_last where its strides ascend so.

    Sizes of one leave it open; as ``c10::is_channels_last_strides_2d`` decides, strides that fit both are contiguous.
    """
    smallest = 0
    for dim in (1, 3, 2, 0):
        size, stride = x.shape[dim], x.stride(dim)
        ambiguous = dim == 0 and smallest == x.stride(1)
        if size == 0 or stride < smallest or ambiguous or x.stride(1) == 0:
            return torch.contiguous_format
        smallest = stride * max(size, 1)
    return torch.channels_last
