"""What the device can do at best, measured: by a large copy and by a large product of matrices.

The product is computed as such and as a 1x1 convolution: PyTorch gives these to different libraries, either of which
may be the quicker one. The quickest call counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clocks import Clock

_REPEATS = 10


@dataclass(frozen=True)
class Ceilings:
    """Bytes read and written a second by a copy, and operations a second by a product, of the quickest of several."""

    bytes_per_s: float
    operations_per_s: float

    @property
    def ridge(self) -> float:
        """Operations a byte from which on the operations decide."""
        return self.operations_per_s / self.bytes_per_s


def measure_ceilings(device: torch.device, dtype: torch.dtype, clock: Clock, *, quick: bool = False) -> Ceilings:
    """The ceilings for a dtype; float32 products round their operands to tf32 where convolutions may."""
    nbytes, size = _sizes(device, quick)
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    with torch.no_grad(), _tf32_as_convolutions():
        copy = _quickest(lambda: target.copy_(source), clock)
        product = min(_quickest(lambda: a @ b, clock), _quickest(_as_convolution(a, b), clock))
    return Ceilings(2 * nbytes / copy, 2 * size**3 / product)


def _as_convolution(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    """The rows of `a` are pixels of one image."""
    x, weight = a.T[None, :, :, None], b.T[:, :, None, None]
    assert x.is_contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight)


def _sizes(device: torch.device, quick: bool) -> tuple[int, int]:
    """Bytes that are copied, rows and columns of the matrices."""
    if device.type == "cuda":
        return 2**30, 8192
    return (2**24, 256) if quick else (2**28, 1536)


def _quickest(call: Callable[[], object], clock: Clock) -> float:
    return min(clock(call).device for _ in range(_REPEATS))


@contextmanager
def _tf32_as_convolutions() -> Iterator[None]:
    former = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = former
