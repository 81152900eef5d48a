"""Norms with running statistics, folded into the convolutions ahead of them: what inference engines do.

Folding is done once, ahead of time, and rounds the weights to their dtype: its error is larger than the unfused one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (C, K, 1, 1) and bias (C) of the one convolution that computes ``norm(conv(x))`` in evaluation."""
    scale, shift = affine(norm)
    weight = (conv.weight.detach().double() * scale[:, None, None, None]).to(conv.weight.dtype)
    return weight.contiguous(memory_format=torch.channels_last), shift.to(conv.weight.dtype)


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C), float64, that the norm is in evaluation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale
