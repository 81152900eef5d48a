"""Bytes and operations of a tail as the kernels have them: the formulas of ``docs/design.md``, section 5.

Bytes are those of activations and masks, each tensor read or written whole and once a phase; weights, vectors and
partial sums are left out. A multiply-add is two operations. What is done to each element by itself is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..backends.kernels.phases import BranchGradient, gradient_of, masks_input
from ..operation.branches import Branch, Direct, Projection, ZeroPad, output_shape
from ..operation.computation import Needs, Tail, takes_moments
from ..operation.relu_mask import mask_bytes


class Traffic(NamedTuple):
    """What a direction moves and multiplies."""

    bytes: int
    operations: int


class _Size:
    """A branch's sizes: M rows, K input and C output channels; elements of x, as far as it is read, and of y."""

    def __init__(self, branch: Branch) -> None:
        n, c, h, w = output_shape(branch)
        m, k = n * h * w, branch.x.shape[1]
        self.x, self.y, self.dx = m * k, m * c, branch.x.numel()
        self.product = 2 * m * k * c  # operations of x W^T, and of each product of these sizes
        self.gram = 2 * m * k * k
        self.matrices = 2 * c * k * k


def forward(tail: Tail, *, keep: bool) -> Traffic:
    """What the launch that writes y moves and multiplies; `keep`: it leaves what backward needs."""
    elements = sum(map(_forward_elements, tail.branches)) + _Size(tail.branches[0]).y
    mask = _mask(tail) if keep and tail.relu and not masks_input(tail) else 0
    return Traffic(elements * tail.branches[0].x.element_size() + mask, sum(map(_forward_operations, tail.branches)))


def _mask(tail: Tail) -> int:
    """Bytes of the packed mask that are read and written; what pads a pixel's is not."""
    n, c, h, w = output_shape(tail.branches[0])
    return n * h * w * mask_bytes(c, tail.branches[0].x.element_size())


def _applied_mask(own: BranchGradient) -> int:
    """Bytes of the packed mask that the last phase reads to make a branch's g."""
    if not own.applies:
        return 0
    n, c, h, w = output_shape(own.branch)
    first, end = 0, c
    if isinstance(own.branch, ZeroPad):
        first, _ = own.branch.padding
        end = first + own.branch.x.shape[1]
    size = own.branch.x.element_size()
    return n * h * w * (mask_bytes(end, size) - first * size // 16)


def _forward_elements(branch: Branch) -> int:
    """All but y."""
    training = branch.norm is not None and branch.norm.training
    return _Size(branch).x * (2 if training else 1)


def _forward_operations(branch: Branch) -> int:
    if not isinstance(branch, Projection):
        return 0
    size = _Size(branch)
    return size.product + (size.gram + size.matrices if takes_moments(branch) else 0)


def backward(tail: Tail, needs: Sequence[Needs]) -> Traffic:
    """What the launch that writes the gradients moves and multiplies; `needs` names these, a `Needs` a branch."""
    gradient = gradient_of(tail, needs)
    y = _Size(tail.branches[0]).y
    elements = mask = 0
    if gradient.reduces:
        elements += y * (1 + gradient.writes_masked)
        mask = _mask(tail) if gradient.relu and not gradient.masks_input else 0
    elements += max(map(_applied_incoming, gradient.branches))  # where both read g, these are the same bytes
    mask += max(map(_applied_mask, gradient.branches)) if gradient.masks_again else 0
    elements += sum(_backward_elements(own, gradient.masks_input) for own in gradient.branches)
    operations = sum(count for own in gradient.branches for count in _backward_operations(own))
    return Traffic(elements * tail.branches[0].x.element_size() + mask, operations)


def _applied_incoming(own: BranchGradient) -> int:
    """Elements of g that the last phase reads for a branch."""
    if not own.applies:
        return 0
    size, reads_all = _Size(own.branch), isinstance(own.branch, Direct | Projection)
    return size.y if reads_all else size.x


def _backward_elements(own: BranchGradient, masks: bool) -> int:
    """All but dy, y and g."""
    size = _Size(own.branch)
    reduced = size.x if own.reduction is not None or (masks and own.has_vectors) else 0
    if not own.applies:
        return reduced
    reads_input = masks or (own.branch.norm is not None and own.branch.norm.training)
    return reduced + (size.x if reads_input else 0) + size.dx


def _backward_operations(own: BranchGradient) -> Iterator[int]:
    """The operations of each product."""
    if not isinstance(own.branch, Projection):
        return
    size = _Size(own.branch)
    if own.reduction is not None:
        yield size.product
    if own.needs.x:
        yield size.product
        yield (2 * size.gram + size.matrices) * own.has_gram  # x Q twice: Q is the sum of two matrices; Q itself
    if own.needs.weight:
        yield size.matrices * own.has_gram  # W Cov
