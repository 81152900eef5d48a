"""What the phases of the kernels have to do for each branch of a tail, as the binding decides it for a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...operation.branches import Branch, Direct, Projection
from ...operation.computation import Needs, Tail, is_identity, takes_moments

_TILE_COLUMNS = 128  # of the kernels' tiles (csrc/partition.h)
# What backward sums over the rows before anything else is known, beside g: g z of a `Direct` source, or g^T x.
Reduction: TypeAlias = Literal["dot", "product"]


@dataclass(frozen=True)
class BranchGradient:
    """What backward does for one branch; `needs` are the gradients that it computes."""

    branch: Branch
    needs: Needs

    @property
    def reduction(self) -> Reduction | None:
        of = self.branch
        dots = self.needs.gamma or (of.norm is not None and of.norm.training and self.is_inner)
        if not isinstance(of, Projection):
            return "dot" if of.norm is not None and dots else None
        return "product" if dots or self.needs.weight else None

    @property
    def is_inner(self) -> bool:
        """Whether the gradient of the pre-norm tensor, or what it would be, is needed."""
        return self.needs.x or self.needs.weight

    @property
    def has_vectors(self) -> bool:
        """Whether gradients of vectors are asked for, or needed for others."""
        return self.reduction is not None or self.needs.beta or self.needs.bias

    @property
    def applies(self) -> bool:
        """Whether the last phase has something to write; an identity's gradient is g, which the first one writes."""
        return self.needs.x and not is_identity(self.branch)

    @property
    def needs_masked(self) -> bool:
        """Whether g is an identity's gradient, or several columns of tiles of dx read g."""
        of = self.branch
        reads_often = isinstance(of, Projection) and of.x.shape[1] > _TILE_COLUMNS
        return self.needs.x and (is_identity(of) or reads_often)

    @property
    def has_gram(self) -> bool:
        """Whether it follows moments."""
        return takes_moments(self.branch)


@dataclass(frozen=True)
class TailGradient:
    """What backward does."""

    relu: bool
    branches: tuple[BranchGradient, ...]

    @property
    def reduces(self) -> bool:
        """Whether the first phase has something to do."""
        return self.writes_masked or any(own.has_vectors for own in self.branches)

    @property
    def writes_masked(self) -> bool:
        """Whether g = dy [y > 0] is written, and not made once more by those who read it."""
        return self._masks and any(own.needs_masked for own in self.branches)

    @property
    def masks_again(self) -> bool:
        """Whether the last phase makes g of dy and the mask once more."""
        return self._masks and not self.writes_masked

    @property
    def _masks(self) -> bool:
        return self.relu and not self.masks_input

    @property
    def masks_input(self) -> bool:
        return self.relu and _is_norm_alone([own.branch for own in self.branches])


def masks_input(tail: Tail) -> bool:
    """Whether backward takes the relu's mask from a normed source, which it reads anyway."""
    return tail.relu and _is_norm_alone(tail.branches)


def _is_norm_alone(branches: Sequence[Branch]) -> bool:
    return len(branches) == 1 and isinstance(branches[0], Direct) and branches[0].norm is not None


def gradient_of(tail: Tail, needs: Sequence[Needs]) -> TailGradient:
    """The backward of a tail by the gradients that are asked for, a `Needs` a branch.

    Without a relu an identity's gradient is dy, and nothing is computed for it.
    """
    each = zip(tail.branches, needs, strict=True)
    passed = [own._replace(x=own.x and (tail.relu or not is_identity(branch))) for branch, own in each]
    parts = map(BranchGradient, tail.branches, passed)
    return TailGradient(tail.relu, tuple(parts))
