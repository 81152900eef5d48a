"""A tail that is ready to be computed, what its forward leaves for backward, and who computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from .branches import Branch, Direct, Projection


@dataclass(frozen=True)
class Tail:
    """Checked branches, and whether a relu follows.

    In backward, tensors of a branch that are not needed are absent or on the meta device.
    """

    branches: tuple[Branch, ...]
    relu: bool


class Statistics(NamedTuple):
    """What a norm normalised with: float32, in double precision float64. None where backward does not need it."""

    mean: Tensor | None = None  # (C), without the projection's bias
    var: Tensor | None = None  # (C), biased
    mu: Tensor | None = None  # (K), of a projection's input where the norm's statistics were derived from it
    cov: Tensor | None = None  # (K, K), of the same
    # (C), where several processes share mean and var: the mean of this process's rows, of a projection. As for mu, cov.
    own_mean: Tensor | None = None


class Gradients(NamedTuple):
    """The gradients of a branch's tensors; None where there is no such tensor or nobody asked."""

    x: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None


class Needs(NamedTuple):
    """Which gradients are asked for."""

    x: bool
    weight: bool
    bias: bool
    gamma: bool
    beta: bool


class Computation(Protocol):
    """A way to compute tails. Any of them can run the backward of another's forward."""

    def packs_mask(self, tail: Tail) -> bool:
        """Whether backward is better off with the packed mask of the tail's relu than with its output."""
        ...

    def forward(self, tail: Tail, keep: bool, mask: Tensor | None = None) -> tuple[Tensor, list[Statistics]]:
        """The output and, if they are to be kept, the statistics of each branch.

        `mask` is memory for the packed mask of a relu (`relu_mask`), None where it is not to be kept.
        """
        ...

    def backward(
        self, tail: Tail, dy: Tensor, mask: Tensor | None, statistics: Sequence[Statistics], needs: Sequence[Needs]
    ) -> list[Gradients]:
        """The gradients from the output's; `mask` is a relu's, packed or its output (`relu_mask`), None without one."""
        ...


def is_identity(branch: Branch) -> bool:
    """Whether the branch adds its input as it is."""
    return isinstance(branch, Direct) and branch.norm is None


def shares_statistics(branch: Branch) -> bool:
    """Whether the branch's norm takes its statistics from the rows of several processes."""
    return branch.norm is not None and branch.norm.training and branch.norm.process_group is not None


def takes_moments(branch: Branch) -> bool:
    """Whether a norm's statistics are derived from those of its projection's input."""
    return isinstance(branch, Projection) and branch.norm is not None and branch.norm.training


class Operands(NamedTuple):
    """The tensors that gradients flow to."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None


def operands_of(branch: Branch) -> Operands:
    """A branch's; the order is that of `Gradients`."""
    weight, bias = (branch.weight, branch.bias) if isinstance(branch, Projection) else (None, None)
    gamma, beta = (branch.norm.weight, branch.norm.bias) if branch.norm is not None else (None, None)
    return Operands(branch.x, weight, bias, gamma, beta)
