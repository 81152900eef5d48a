"""What a residual tail is made of: two branches, each a source and an optional batch norm.

    y = activation(norm(source(a)) + norm(source(b)))

A branch only describes; `fused_resnet.functional.residual_tail` computes. The vocabulary is that of
``docs/design.md``, sections 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor

Activation: TypeAlias = Literal["relu"] | None
Placement: TypeAlias = Literal["end", "both"]


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm over (N, H, W) with everything that ``F.batch_norm`` takes.

    Args:
        weight, bias: gamma and beta, shape (C,), or None.
        running_mean, running_var: shape (C,), updated in place while training; None where not tracked.
        num_batches_tracked: integer scalar, incremented in place while training; None where not tracked.
        momentum: weight of the batch in the running statistics; None for their cumulative average, which
            needs ``num_batches_tracked``.
        eps: added to the variance.
        training: normalise by the batch's statistics (True) or by the running ones (False).
        process_group: name of the group of processes (``group.group_name`` in `torch.distributed`) that share the
            batch's statistics in training, as ``nn.SyncBatchNorm`` does; None where none do.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    num_batches_tracked: Tensor | None = None
    momentum: float | None = 0.1
    eps: float = 1e-5
    training: bool = True
    process_group: str | None = None

    def count_batch(self) -> float:
        """Counts one training batch and returns its weight in the running statistics."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / float(self.num_batches_tracked)
        return 0.0 if self.momentum is None else self.momentum


@dataclass(frozen=True, eq=False)
class Direct:
    """The tensor itself: a 3x3 convolution's output, or the identity shortcut.

    Args:
        x: (N, C, H, W).
        norm: batch norm over C channels, or None.
    """

    x: Tensor
    norm: Norm | None = None
    stride: ClassVar[int] = 1

    @property
    def out_channels(self) -> int:
        return self.x.shape[1]


@dataclass(frozen=True, eq=False)
class Projection:
    """A 1x1 convolution: the shortcut of option B, or a Bottleneck's last convolution.

    Args:
        x: (N, K, H, W).
        weight: (C, K, 1, 1), as ``nn.Conv2d`` holds it.
        norm: batch norm over C channels, or None.
        stride: of the convolution, in both directions.
        bias: the convolution's, shape (C,), or None.
    """

    x: Tensor
    weight: Tensor
    norm: Norm | None = None
    stride: int = 1
    bias: Tensor | None = None

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]


@dataclass(frozen=True, eq=False)
class ZeroPad:
    """Option A: every ``stride``-th pixel, with zero channels around the input's.

    Args:
        x: (N, K, H, W).
        out_channels: at least K.
        stride: of the subsampling, in both directions.
        placement: zero channels at the "end", or on "both" sides (an odd one out goes to the end).
    """

    x: Tensor
    out_channels: int
    stride: int = 1
    placement: Placement = "end"
    norm: ClassVar[None] = None

    @property
    def padding(self) -> tuple[int, int]:
        """Zero channels before and after the input's."""
        missing = self.out_channels - self.x.shape[1]
        before = missing // 2 if self.placement == "both" else 0
        return before, missing - before


Branch: TypeAlias = Direct | Projection | ZeroPad


def output_shape(branch: Branch) -> tuple[int, int, int, int]:
    """Shape of the branch's addend: a stride of s keeps ceil(size / s) pixels."""
    n, _, h, w = branch.x.shape
    s = branch.stride
    return n, branch.out_channels, -(-h // s), -(-w // s)


def named_tensors(branch: Branch) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a branch under its name."""
    holders = [branch] if branch.norm is None else [branch, branch.norm]
    for holder in holders:
        for name, value in vars(holder).items():
            if isinstance(value, Tensor):
                yield (name if holder is branch else f"norm.{name}"), value


def with_tensors(branch: Branch, change: Callable[[Tensor], Tensor]) -> Branch:
    """The branch with every tensor changed."""
    changes = _changed(branch, change)
    if branch.norm is not None:
        changes["norm"] = replace(branch.norm, **_changed(branch.norm, change))
    return replace(branch, **changes)


def _changed(holder: Branch | Norm, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: change(value) for name, value in vars(holder).items() if isinstance(value, Tensor)}
