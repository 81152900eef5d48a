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

from dataclasses import dataclass

from ..modes import Mode
from ..tail_shapes import TailShape
from .ceilings import Ceilings


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
        # Of a strided shortcut all pixels have a gradient.
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
