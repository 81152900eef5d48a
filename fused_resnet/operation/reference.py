"""The residual tail in plain PyTorch calls: the oracle of every test and the fallback of every backend."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .branches import Activation, Branch, Norm, Projection, ZeroPad


def residual_tail(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    """``activation(branch(main) + branch(shortcut))``, as the unfused modules compute it."""
    y = addend(main)
    if shortcut is not None:
        y = y + addend(shortcut)
    return F.relu(y) if activation == "relu" else y


def addend(branch: Branch) -> Tensor:
    """One branch: its source, then its batch norm if it has one."""
    z = source(branch)
    return z if branch.norm is None else batch_norm(z, branch.norm)


def source(branch: Branch) -> Tensor:
    """A branch before its norm, shape (N, C, Ho, Wo)."""
    if isinstance(branch, Projection):
        return F.conv2d(branch.x, branch.weight, branch.bias, branch.stride)
    if isinstance(branch, ZeroPad):
        return F.pad(subsample(branch.x, branch.stride), (0, 0, 0, 0, *branch.padding))
    return branch.x


def subsample(x: Tensor, stride: int) -> Tensor:
    """Every ``stride``-th pixel of x: what a strided 1x1 convolution reads."""
    return x if stride == 1 else x[:, :, ::stride, ::stride]


def batch_norm(z: Tensor, norm: Norm) -> Tensor:
    """What ``nn.BatchNorm2d.forward`` does, buffers included."""
    return F.batch_norm(
        z,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        norm.training,
        norm.count_batch(),
        norm.eps,
    )
