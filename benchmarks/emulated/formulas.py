"""Which tails are counted, in which modes, and what the package's own formulas say of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fused_resnet.backends.kernels import launches
from fused_resnet.cost import traffic
from fused_resnet.operation.branches import output_shape
from fused_resnet.operation.computation import Tail as DescribedTail
from fused_resnet.operation.computation import takes_moments

from ..tail_shapes import NETWORKS, RESNET50, TailShape, distinct
from ..tails import described, every_gradient

# Two whole tiles of rows: bytes of activations grow with the rows, and the emulator takes its time.
BATCH, SIZE = 4, 8
TRAINING, EVALUATION = "training", "evaluation"
# Output channels of what --quick counts; all of it has fewer than a tile.
_QUICK_CHANNELS = 256
_TILE, _NARROWEST_TILE = 128, 64
# Products of bfloat16 for one of a weight and a float (csrc/exact_products.cuh).
_PRODUCTS_OF_PARTS = {torch.bfloat16: 3, torch.float16: 5}


@dataclass(frozen=True)
class Case:
    """A tail in a mode, "training" or "evaluation"."""

    shape: TailShape
    mode: str

    @property
    def training(self) -> bool:
        """Whether norms take the batch's statistics."""
        return self.mode != EVALUATION

    @property
    def effort(self) -> int:
        """What the emulator has most work with: products of matrices of channels, without tiles."""
        matrices = sum(k * k for k in self.shape.projections) * self.training
        return self.shape.channels * (matrices + self.shape.rows * sum(self.shape.projections))


def cases(quick: bool) -> list[Case]:
    """Each distinct tail, and ResNet-50's with the last convolution left out; in each mode."""
    apart = [replace(shape, inner=None) for shape in RESNET50]
    shapes = [*(tail.shape for tail in distinct(NETWORKS)), *apart]
    small = [replace(shape, batch=BATCH, size=SIZE) for shape in shapes]
    return [Case(shape, mode) for shape in small if _chosen(shape, quick) for mode in (TRAINING, EVALUATION)]


def _chosen(shape: TailShape, quick: bool) -> bool:
    return not quick or (shape.channels <= _QUICK_CHANNELS and shape.block.startswith("layer1"))


@dataclass(frozen=True)
class Expected:
    """What the formulas say of one direction.

    Attributes:
        kernel: its one launch, with template arguments.
        cooperative: whether the phases have barriers of the grid between them.
        bytes: of activations, distinct ones of each phase.
        operations: two for each multiply-add.
        multiply_adds: those of `operations` that tensor cores make; 0 in float32, and None of channels that fill no
            tile, whose padding is multiplied, too.
    """

    kernel: str
    cooperative: bool
    bytes: int
    operations: int
    multiply_adds: int | None


def expected(case: Case, dtype: torch.dtype) -> tuple[Expected, Expected]:
    """Forward and backward, in which all gradients are asked for."""
    tail = described(case.shape, case.training, dtype)
    needs = every_gradient(tail)
    forward, backward = traffic.forward(tail, keep=True), traffic.backward(tail, needs)
    grams = list(_grams(tail))
    matrices = sum(gram.channels * gram.inputs**2 for gram in grams)
    quadratic = sum(gram.channels * gram.tiled_below for gram in grams)
    parts = _PRODUCTS_OF_PARTS.get(dtype, 0)
    halved = sum(gram.left_out for gram in grams)
    name = launches.backward_kernel(tail, needs)
    assert name is not None

    def multiply_adds(operations: int, more: int) -> int | None:
        if dtype == torch.float32:
            return 0
        return operations // 2 + more if _fills_tiles(case.shape) else None

    # Matrices take several products for one: W Cov, and Q's tiles on and below the diagonal.
    forward_more = (parts - 1) * matrices - halved
    backward_more = (parts - 1) * matrices + parts * quadratic - matrices
    return (
        _expected(launches.forward_kernel(tail), forward, multiply_adds(forward.operations, forward_more)),
        _expected(name, backward, multiply_adds(backward.operations, backward_more)),
    )


def _expected(kernel: str, of: traffic.Traffic, multiply_adds: int | None) -> Expected:
    cooperative = kernel.startswith(("forward", "backward"))
    return Expected(kernel, cooperative, of.bytes, of.operations, multiply_adds)


def _fills_tiles(shape: TailShape) -> bool:
    """Whether no product has to be padded; a tail without products has none."""
    return not shape.projections or all(k % _NARROWEST_TILE == 0 for k in (*shape.projections, shape.channels))


@dataclass(frozen=True)
class _Gram:
    """x^T x of a projection that takes moments."""

    rows: int
    inputs: int
    channels: int

    @property
    def tiled_below(self) -> int:
        """Elements of Q's tiles on and below the diagonal."""
        widths = [min(_NARROWEST_TILE, self.inputs - first) for first in range(0, self.inputs, _NARROWEST_TILE)]
        return sum(a * b for i, a in enumerate(widths) for b in widths[: i + 1])

    @property
    def left_out(self) -> int:
        """Multiply-adds that symmetry saves: tiles above the diagonal, and a quarter of each on it."""
        widths = [min(_TILE, self.inputs - first) for first in range(0, self.inputs, _TILE)]
        above = sum(a * b for i, a in enumerate(widths) for b in widths[:i])
        quarters = sum(min(width, _TILE // 2) * max(0, width - _TILE // 2) for width in widths)
        return self.rows * (above + quarters)


def _grams(tail: DescribedTail) -> Iterator[_Gram]:
    for branch in tail.branches:
        if takes_moments(branch):
            n, c, h, w = output_shape(branch)
            yield _Gram(n * h * w, branch.x.shape[1], c)
