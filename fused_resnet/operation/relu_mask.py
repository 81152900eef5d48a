"""Where a relu lets gradients pass: its output y, or one bit for each of y's elements.

Packed, a mask is uint8 of shape (N, H, W, bytes): a byte for each 16 bytes of a pixel's channels, whose lowest bit is
the first channel's; a pixel's bytes are padded to a multiple of four (``Mask`` in ``csrc/tail.h``). So a mask has a
sixteenth of y's bytes. NaN passes, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .branches import Branch, output_shape


def empty_mask(branches: Sequence[Branch]) -> Tensor:
    """Memory for the packed mask of the branches' sum."""
    x = branches[0].x
    shape = packed_shape(output_shape(branches[0]), x.element_size())
    return torch.empty(shape, dtype=torch.uint8, device=x.device)


def mask_bytes(channels: int, element_size: int) -> int:
    """Bytes of a pixel in a packed mask, without those that pad them."""
    return -(-channels * element_size // 16)


def packed_shape(shape: Sequence[int], element_size: int) -> tuple[int, int, int, int]:
    """The shape of the packed mask of an output."""
    n, c, h, w = shape
    return n, h, w, -(-mask_bytes(c, element_size) // 4) * 4


def is_packed(mask: Tensor) -> bool:
    return mask.dtype == torch.uint8


def pack(y: Tensor) -> Tensor:
    """The packed mask of a relu's output."""
    vector, channels = 16 // y.element_size(), y.shape[1]
    passes = (~(y <= 0)).permute(0, 2, 3, 1).to(torch.uint8)
    shape = packed_shape(y.shape, y.element_size())
    padded = torch.nn.functional.pad(passes, (0, shape[3] * vector - channels))
    return (padded.view(*shape, vector) << _places(vector, y)).sum(-1, dtype=torch.uint8)


def masked(dy: Tensor, mask: Tensor) -> Tensor:
    """dy where the relu lets it pass, zeros elsewhere; `mask` is packed, or the relu's output."""
    if not is_packed(mask):
        return torch.ops.aten.threshold_backward(dy, mask, 0)  # type: ignore[no-any-return]
    bits = (mask.unsqueeze(-1) >> _places(16 // dy.element_size(), dy)) & 1
    return dy.masked_fill(bits.flatten(3)[..., : dy.shape[1]].permute(0, 3, 1, 2) == 0, 0)


def _places(vector: int, like: Tensor) -> Tensor:
    return torch.arange(vector, dtype=torch.uint8, device=like.device)
