"""Modules in a memory format, which PyTorch's annotations of `nn.Module.to` leave out."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def in_format(module: M, memory_format: torch.memory_format = torch.channels_last) -> M:
    """The module itself, its parameters and buffers of four dimensions in that format."""
    module.to(memory_format=memory_format)  # type: ignore[call-overload]
    return module
