"""Three ways to a batch norm behind a projection, and which of them a call takes.

``library`` leaves the projection to PyTorch's own convolution, whose output the tail then starts from, and autograd
keeps. ``moments`` derives the norm's statistics from the mean and covariance of the projection's *input*
(``docs/design.md``, section 3); ``materialise`` computes the pre-norm tensor, uses it and drops it, once in
forward and once more in backward. Neither of these saves it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import get_args

import torch

from .operation.branches import Projection, output_shape
from .operation.computation import Strategy, StrategyChoice
from .operation.setting import RestoredOnExit, Setting

# What the CUDA cores of a large GPU do in the time of moving one byte.
FLOAT32_OPERATIONS_PER_BYTE = 14.0
# Products of rounded numbers that tensor cores take for one with a float (docs/design.md, "Matrices of channels").
PRODUCTS_OF_PARTS = 3
# In the place of a size of which nothing is known.
_MANY = 100_000


@dataclass(frozen=True)
class Problem:
    """One projection with a training norm: M rows (N * Ho * Wo), K input and C output channels."""

    rows: int
    in_channels: int
    out_channels: int
    element_size: int
    backward: bool


@dataclass(frozen=True)
class Cost:
    """What a strategy adds to the products and tensors that both share."""

    bytes: int
    operations: int  # on activations: on tensor cores where there are any
    matrix_operations: int  # on matrices of channels, as exact as float32

    def seconds(self, operations_per_byte: float) -> float:
        """Time in units of moving one byte, for a machine of that balance; nothing overlaps."""
        exact = max(min(operations_per_byte, FLOAT32_OPERATIONS_PER_BYTE), operations_per_byte / PRODUCTS_OF_PARTS)
        return self.bytes + self.operations / operations_per_byte + self.matrix_operations / exact


def problem_of(branch: Projection, backward: bool) -> Problem:
    """The problem that a branch is; `backward` says whether gradients will be asked for."""
    n, c, h, w = output_shape(branch)
    rows, inputs, outputs = map(_hint, (n * h * w, branch.x.shape[1], c))
    return Problem(rows, inputs, outputs, branch.x.element_size(), backward)


def _hint(size: int | torch.SymInt) -> int:
    """A size, or of one that a compiler leaves open the one that it has seen: a guess is good enough for a choice.

    Comparing an open size would tie the compiled program to one side of the comparison.
    """
    if not isinstance(size, torch.SymInt):
        return size
    seen = size.node.hint
    return int(seen) if seen is not None else _MANY


def cost(strategy: Strategy, problem: Problem) -> Cost:
    """Bytes and operations of a strategy (a multiply-add is two operations), as the kernels have them.

    Both share, in backward: dy, y and x read and g written; g read and dx written; g^T x and g W, or as many
    operations in their place.
    moments: one more read of x in each direction; x^T x and diag(W Cov W^T) in forward; W Cov, Q and x Q in backward,
    the last twice (in half precision, Q is the sum of two matrices).
    materialise: one write and one read of p in forward; in backward the same of its gradient dp, two more reads of x,
    and x W^T twice, once for the sums and once for dp.

    The reference backend chooses by these counts, too, although its own differ.
    """
    m, k, c, size = problem.rows, problem.in_channels, problem.out_channels, problem.element_size
    if strategy == "moments":
        forward = Cost(m * k * size, 2 * m * k * k, 2 * c * k * k)
        backward = Cost(m * k * size, 2 * 2 * m * k * k, 2 * 2 * c * k * k)
    else:
        forward = Cost(2 * m * c * size, 0, 0)
        backward = Cost(2 * m * (k + c) * size, 2 * 2 * m * k * c, 0)
    if not problem.backward:
        return forward
    return Cost(
        forward.bytes + backward.bytes,
        forward.operations + backward.operations,
        forward.matrix_operations + backward.matrix_operations,
    )


@functools.lru_cache(maxsize=4096)
def choose(problem: Problem, operations_per_byte: float) -> Strategy:
    """The cheaper strategy on a machine that does so many operations on activations in the time of moving one byte."""
    moments, materialise = (cost(s, problem).seconds(operations_per_byte) for s in get_args(Strategy))
    return "moments" if moments <= materialise else "materialise"


choice: Setting[StrategyChoice] = Setting("auto")


def use_strategy(strategy: StrategyChoice) -> RestoredOnExit[StrategyChoice]:
    """Forces a strategy for every later call, or, as a context manager, for those within.

    "auto" (the default) decides call by call: on a GPU by time (`fused_resnet.cost.cost_model`), which may also leave a
    tail to PyTorch's own operations, elsewhere with `choose`. Results agree up to rounding.

    Raises:
        ValueError: the strategy is none of "moments", "materialise", "library", "auto".
    """
    if strategy not in get_args(StrategyChoice):
        raise ValueError(f"strategy is {strategy!r}, expected one of {', '.join(map(repr, get_args(StrategyChoice)))}")
    return choice.set(strategy)


def decide(problem: Problem, operations_per_byte: float) -> Strategy:
    """What `use_strategy` forces, or what `choose` chooses."""
    forced = choice.value
    return forced if forced == "moments" or forced == "materialise" else choose(problem, operations_per_byte)


def current_strategy() -> StrategyChoice:
    """What `use_strategy` last chose."""
    return choice.value
