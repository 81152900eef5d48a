"""The shortcuts of residual blocks: each computes by itself, or describes itself as a branch of a fused tail.

The options are those of the table in ``docs/design.md``, section 1.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from ..conversion.modules import branch_of, refusal
from ..operation.branches import Branch, Direct, Placement, ZeroPad
from ..operation.reference import source

Shortcut: TypeAlias = Literal["A", "B", "C", "D", "frozen", "none"]


class IdentityShortcut(nn.Module):
    """The input itself: (N, C, H, W) to the same."""

    def refusal(self) -> None:
        return None

    def branch(self, x: Tensor) -> Branch:
        return Direct(x)

    def forward(self, x: Tensor) -> Tensor:
        return x


class NoShortcut(nn.Module):
    """The plain net: there is nothing to add, which ``forward`` says by returning None."""

    def refusal(self) -> None:
        return None

    def branch(self, x: Tensor) -> None:
        return None

    def forward(self, x: Tensor) -> None:
        return None


class ZeroPadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, zero channels appended ("end") or split on "both" sides.

    Maps (N, K, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, out_channels: int, stride: int = 1, placement: Placement = "end") -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride
        self.placement: Placement = placement

    def refusal(self) -> None:
        return None

    def branch(self, x: Tensor) -> Branch:
        return ZeroPad(x, self.out_channels, self.stride, self.placement)

    def forward(self, x: Tensor) -> Tensor:
        return source(ZeroPad(x, self.out_channels, self.stride, self.placement))

    def extra_repr(self) -> str:
        return f"{self.out_channels}, stride={self.stride}, placement={self.placement!r}"


class ProjectionShortcut(nn.Sequential):
    """Option B: a 1x1 convolution and a batch norm, as torchvision's ``downsample``.

    Args:
        in_channels, out_channels, stride: of the convolution.
        trainable: False for a weight drawn once, with orthonormal columns (rows where the output is narrower than the
            input), that asks for no gradient; the norm trains as usual.
        pool: option D: average the stride away in a pool of its own ahead of the convolution.
        norm: False for the bare convolution of pre-activation blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        trainable: bool = True,
        pool: bool = False,
        norm: bool = True,
    ) -> None:
        modules: list[nn.Module] = []
        if pool:
            modules.append(
                nn.Identity() if stride == 1 else nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            )
        conv = nn.Conv2d(in_channels, out_channels, 1, stride=1 if pool else stride, bias=False)
        modules.append(conv)
        if norm:
            modules.append(nn.BatchNorm2d(out_channels))
        super().__init__(*modules)
        self._at, self._length = int(pool), len(modules)
        self.trainable = trainable
        if not trainable:
            conv.weight.requires_grad_(False)
            self.reset_frozen_weight()

    @torch.no_grad()
    def reset_frozen_weight(self) -> None:
        """Draws the weight of a frozen projection anew."""
        weight = self[self._at].weight
        assert isinstance(weight, Tensor)
        nn.init.orthogonal_(weight)

    def refusal(self) -> str | None:
        """Why the projection cannot be part of a tail as it is now."""
        if len(self) != self._length:
            return f"it has {len(self)} modules instead of {self._length}"
        reason = refusal(self[self._at], nn.Conv2d)
        return reason or (refusal(self[self._at + 1], nn.BatchNorm2d) if len(self) > self._at + 1 else None)

    def branch(self, x: Tensor) -> Branch:
        modules: list[Any] = [*self._modules.values()]
        pool, (conv, *norms) = modules[: self._at], modules[self._at :]
        return branch_of(pool[0](x) if pool else x, conv, norms[0] if norms else None)


ShortcutModule: TypeAlias = IdentityShortcut | NoShortcut | ZeroPadShortcut | ProjectionShortcut


def make_shortcut(
    option: Shortcut, in_channels: int, out_channels: int, stride: int, *, norm: bool = True
) -> ShortcutModule:
    """The shortcut module of an option: identity wherever the shape does not change, except under "C" and "none".

    Raises:
        ValueError: there is no such option, or option A would have to drop channels.
    """
    if option not in get_args(Shortcut):
        raise ValueError(f"shortcut is {option!r}, expected one of {', '.join(map(repr, get_args(Shortcut)))}")
    if option == "none":
        return NoShortcut()
    if in_channels == out_channels and stride == 1 and option != "C":
        return IdentityShortcut()
    if option == "A":
        if out_channels < in_channels:
            raise ValueError(f"shortcut 'A' cannot go from {in_channels} to {out_channels} channels")
        return ZeroPadShortcut(out_channels, stride)
    return ProjectionShortcut(
        in_channels, out_channels, stride, trainable=option != "frozen", pool=option == "D", norm=norm
    )
