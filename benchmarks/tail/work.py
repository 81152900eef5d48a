"""The work that a tail cannot do without, whoever computes it, and the time that a machine's ceilings allow for it.

Bytes: each input read once as far as it is used, each output written once; with backward, the output's gradient read
and every gradient written, too; weights included, vectors left out. Operations: of the products, in backward twice as
many, a multiply-add is two; and the few of each of the output's elements:

====================  ========================================================  ==============================
per norm, forward     multiply, add                                             2
... in training       sum for the mean; subtract, multiply, add                 4
per norm, backward    sum; multiply, add, of both sums; multiply                4
... in training       subtract twice, multiply                                  3
per tail              addition, relu; in backward the relu's mask               2, and 1
====================  ========================================================  ==============================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clocks import Clock
from ..tail_shapes import TailShape
from ..tails import Mode

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

    @property
    def note(self) -> str:
        return (
            f"ceilings: {self.bytes_per_s / 1e9:.4g} GB/s of a large copy, bytes read and written,"
            f" {self.operations_per_s / 1e12:.3g} TFLOP/s of a large product of matrices, both of this run."
        )


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


@dataclass(frozen=True)
class Work:
    """Compulsory bytes and operations."""

    bytes: int
    operations: int

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.operations / self.bytes

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time: whatever takes longer, moving or computing, hides the other."""
        return max(self.bytes / ceilings.bytes_per_s, self.operations / ceilings.operations_per_s)


def compulsory(shape: TailShape, mode: Mode, element_size: int) -> Work:
    """The work of one call in a mode."""
    y = shape.rows * shape.channels
    inputs = [shape.rows * (shape.inner or shape.channels), shape.rows * (shape.before or shape.channels)]
    weights = sum(k * shape.channels for k in shape.projections)
    elements = sum(inputs) + weights + y
    if mode.backward:
        # All pixels of a strided shortcut's input have a gradient.
        elements += y + inputs[0] + inputs[1] * shape.stride**2 + weights
    return Work(elements * element_size, _operations(shape, mode, y))


def _operations(shape: TailShape, mode: Mode, y: int) -> int:
    norms = 2 if shape.shortcut == "projection" else 1
    each = norms * (6 if mode.training else 2) + 2
    products = sum(2 * shape.rows * k * shape.channels for k in shape.projections)
    if mode.backward:
        each += norms * (7 if mode.training else 4) + 1
        products *= 3
    return products + each * y
