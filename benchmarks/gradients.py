"""Gradients of a tail's output that its own rounding does not decide."""

from __future__ import annotations

import torch
from torch import Tensor

# A share of the sum's root mean square: several times what rounding to bfloat16 on the way moves it by.
_KINK = 0.125


def incoming_gradient(z: Tensor) -> Tensor:
    """A random gradient of relu(z), like z, and 0 wherever z is so near to 0 that rounding decides the relu's mask.

    One element that flips outweighs the rounding errors of all others.
    """
    return torch.randn_like(z).masked_fill_(z.abs() < _KINK * z.square().mean().sqrt(), 0)
