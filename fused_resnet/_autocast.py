"""What autocast asks for on a device, and how to switch it off where the dtypes have been decided."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives to a convolution's operands on x's device; None where autocast is off."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def autocast_off(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which operations on x's device run in the dtypes of their operands."""
    return nullcontext() if autocast_dtype(x) is None else torch.autocast(x.device.type, enabled=False)
