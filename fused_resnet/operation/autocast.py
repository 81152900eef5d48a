"""What autocast asks for on a device, and how to switch it off where the dtypes have been decided."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .branches import Branch, Projection


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives to a convolution's operands on x's device; None where autocast is off."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def autocast_off(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which operations on x's device run in the dtypes of their operands."""
    return nullcontext() if autocast_dtype(x) is None else torch.autocast(x.device.type, enabled=False)


def under_autocast(branch: Branch) -> Branch:
    """The branch with a projection's operands cast as autocast casts a convolution's."""
    if not isinstance(branch, Projection) or not isinstance(branch.x, Tensor):
        return branch
    dtype = autocast_dtype(branch.x)
    if dtype is None:
        return branch
    bias = None if branch.bias is None else _cast(branch.bias, dtype)
    return replace(branch, x=_cast(branch.x, dtype), weight=_cast(branch.weight, dtype), bias=bias)


def _cast(operand: Tensor, dtype: torch.dtype) -> Tensor:
    castable = isinstance(operand, Tensor) and operand.is_floating_point() and operand.dtype != torch.float64
    return operand.to(dtype) if castable else operand
