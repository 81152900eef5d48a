"""The same numbers elsewhere in memory: functions from an (N, C, H, W) tensor to one of other strides or alignment."""

import torch
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def offset(x: Tensor, elements: int) -> Tensor:
    """So many elements behind an aligned address, channels_last."""
    n, c, h, w = x.shape
    memory = x.new_zeros(x.numel() + elements)
    return memory[elements:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(x)


def sliced(x: Tensor, before: int, after: int, memory_format: torch.memory_format) -> Tensor:
    """Part of the channels of a larger tensor."""
    n, c, h, w = x.shape
    larger = torch.empty(n, before + c + after, h, w, dtype=x.dtype, device=x.device, memory_format=memory_format)
    return larger.fill_(torch.nan)[:, before : before + c].copy_(x)


def spread(x: Tensor, dim: int) -> Tensor:
    """Every other index of a larger tensor."""
    sizes = [2 * size if d == dim else size for d, size in enumerate(x.shape)]
    larger = torch.empty_like(x.new_empty(sizes), memory_format=torch.channels_last).fill_(torch.nan)
    return larger[tuple(slice(None, None, 2) if d == dim else slice(None) for d in range(4))].copy_(x)


def repeated(x: Tensor, dim: int) -> Tensor:
    """The first index of a dimension for all, expanded."""
    return channels_last(x).narrow(dim, 0, 1).expand(x.shape)


LAYOUTS = {
    "NCHW": lambda x: x.contiguous(),
    "channels_last": channels_last,
    **{f"{n} elements off": lambda x, n=n: offset(x, n) for n in range(1, 8)},
    "slice of NCHW": lambda x: sliced(x, 2, 1, torch.contiguous_format),
    "slice of channels_last": lambda x: sliced(x, 3, 2, torch.channels_last),
    "aligned slice of channels_last": lambda x: sliced(x, 8, 16, torch.channels_last),
    "every other image": lambda x: spread(x, 0),
    "every other channel": lambda x: spread(x, 1),
    "every other column": lambda x: spread(x, 3),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "transposed channels_last": lambda x: channels_last(x.transpose(2, 3)).transpose(2, 3),
    "repeated image": lambda x: repeated(x, 0),
    "repeated channel": lambda x: repeated(x, 1),
    "repeated row": lambda x: repeated(x, 2),
}
