"""Residual blocks whose tails are fused.

They hold real ``Conv2d`` and ``BatchNorm2d`` children under torchvision's names, so checkpoints, optimizers and hooks
work as with torchvision's blocks. ``shortcut`` is one of `fused_resnet.nn.Shortcut`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NoReturn, TypeAlias, get_args

import torch
from torch import Tensor, fx, nn

from ..conversion.modules import branch_of, hooks_for_all, leave_out, norm_with_relu_or, refusal, residual_tail_or
from ..conversion.recomputation import forgetting
from ..examined import Examined
from ..operation.branches import Activation
from ..operation.requirement import require_kernels
from ..operation.tracers import refuse_scripting
from .shortcuts import IdentityShortcut, ProjectionShortcut, Shortcut, ShortcutModule, make_shortcut

_NOTHING: AbstractContextManager[Any] = nullcontext()
Roles: TypeAlias = dict[str, type[nn.Module]]


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def _conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


class ResidualBlock(nn.Module):
    """What the blocks share: the tail, fused unless ``fused`` is False or something in it cannot be.

    Attributes:
        tail: names and kinds of the main branch's modules that are part of the tail; the shortcut always is.
        fused: set by `fused_resnet.fuse` (True) and `fused_resnet.unfuse` (False).
        fused_norms: whether norms ahead of the tail are fused with their relus; set by the same.
        recompute: whether their outputs are computed again in backward, and not kept; set by the same.
        expansion: output channels per ``channels``.
    """

    tail: ClassVar[Roles] = {}
    expansion = 1
    fused_norms = recompute = False
    downsample: nn.Module

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.fused = fused
        self.fused_norms = self.recompute = False
        self._examined = Examined()

    def refusals(self) -> dict[str, str]:
        """Names of children to the reasons why a tail cannot stand for them as they are now."""
        shortcut = self.downsample
        kind = next((kind for kind in get_args(ShortcutModule) if isinstance(shortcut, kind)), None)
        reasons: dict[str, str | None]
        if kind is None or not isinstance(shortcut, ShortcutModule):
            reasons = {"downsample": f"{type(shortcut).__name__} is not a shortcut of fused_resnet.nn"}
        else:
            reasons = {"downsample": refusal(shortcut, kind) or shortcut.refusal()}
        for name, kind in self.tail.items():
            reasons[name] = refusal(getattr(self, name), kind)
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def norms(self, by_themselves: bool) -> list[str]:
        """Names of the batch norms that are fused as they are now: the tail's, and all with a relu where asked for."""
        tail = {self._modules[name] for name in self.tail} | {*self.downsample.children()}
        taken = set() if self.refusals() else tail
        return [
            name
            for name, module in self.named_modules()
            if isinstance(module, nn.BatchNorm2d) and (module in taken or (by_themselves and module not in tail))
        ]

    def refusal(self) -> str | None:
        """Why a call would run the standard operations, None where it would not."""
        if not self.fused:
            return "fused is False"
        compiling = torch.compiler.is_dynamo_compiling()
        if not compiling and self._examined.holds_for(self):
            return hooks_for_all()
        refused = self.refusals()
        reason = hooks_for_all() or next((f"{name}: {reason}" for name, reason in refused.items()), None)
        if reason is None and not compiling:
            shortcut = self.downsample
            containers = [self, *([shortcut] if isinstance(shortcut, ProjectionShortcut) else [])]
            self._examined.note(self, containers, [*self._parts().values(), shortcut, *shortcut.children()])
        return reason

    def _parts(self) -> dict[type[nn.Module], Any]:
        """The main branch's modules that are part of the tail, by kind."""
        children = self._modules
        return {kind: children[name] for name, kind in self.tail.items()}

    def _activated(self, norm: nn.Module, x: Tensor) -> Tensor:
        """The relu of a norm ahead of the tail, one operation where `fused_norms` says so."""
        relu: Any = self._modules["relu"]
        if not self.fused_norms or isinstance(x, fx.Proxy):
            unfused: Tensor = relu(norm(x))
            return unfused
        reason = hooks_for_all() or refusal(norm, nn.BatchNorm2d) or refusal(relu, nn.ReLU)
        if reason is not None:
            return leave_out(lambda: relu(norm(x)), reason)
        branch = branch_of(x, None, norm)
        if self.recompute:
            return norm_with_relu_or(lambda: relu(norm(x)), branch)
        return residual_tail_or(lambda: relu(norm(x)), branch, None, "relu")

    def _behind(self, conv: nn.Module, activated: Tensor) -> Tensor:
        """A convolution of what `_activated` has given."""
        with forgetting(activated) if self.recompute else _NOTHING:
            y: Tensor = conv(activated)
            return y

    def describe(self) -> str:
        """The tail, for people: ``"conv3 + bn3 + downsample + relu"``."""
        main = [name for name in self.tail if name != "relu"]
        return " + ".join([*main, "downsample", *(["relu"] if "relu" in self.tail else [])])

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_scripting("use torch.jit.trace on")

    def _tail(self, x: Tensor, shortcut_input: Tensor) -> Tensor:
        """The tail on the value of the main branch that reaches it, and on the shortcut's input."""
        parts, shortcut = self._parts(), self._modules["downsample"]
        conv, norm, relu = parts.get(nn.Conv2d), parts.get(nn.BatchNorm2d), parts.get(nn.ReLU)

        def unfused() -> Tensor:
            z: Tensor = x if conv is None else conv(x)
            z = z if norm is None else norm(z)
            addend: Tensor | None = self.downsample(shortcut_input)
            z = z if addend is None else z + addend
            return z if relu is None else relu(z)

        if isinstance(x, fx.Proxy) or not self.fused:
            return unfused()
        reason = self.refusal()
        if reason is not None:
            require_kernels(reason)
        if reason is not None or not isinstance(shortcut, ShortcutModule):
            return unfused()
        activation: Activation = None if relu is None else "relu"
        with forgetting(x, shortcut_input) if self.recompute else _NOTHING:
            return residual_tail_or(unfused, branch_of(x, conv, norm), shortcut.branch(shortcut_input), activation)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions: (N, in_channels, H, W) to (N, channels, H / stride, W / stride).

    Args:
        in_channels, channels: of the block's input and output.
        stride: of the first convolution and of the shortcut.
        shortcut: how the shortcut crosses a change of shape.
        fused: False to run the standard operations.
    """

    tail: ClassVar[Roles] = {"bn2": nn.BatchNorm2d, "relu": nn.ReLU}

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *, shortcut: Shortcut = "B", fused: bool = True
    ) -> None:
        super().__init__(fused)
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = make_shortcut(shortcut, in_channels, channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that is added to the shortcut."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = self._activated(self.bn1, self.conv1(x))
        return self._tail(self._behind(self.conv2, out), x)


class Bottleneck(ResidualBlock):
    """1x1, 3x3 (strided) and 1x1 convolutions: (N, in_channels, H, W) to (N, 4 * channels, H / stride, W / stride).

    Args:
        in_channels: of the block's input.
        channels: a fourth of the output's.
        stride: of the 3x3 convolution and of the shortcut.
        shortcut: how the shortcut crosses a change of shape.
        groups, base_width: of the 3x3 convolution, which has ``channels * base_width / 64 * groups`` channels.
        fused: False to run the standard operations.
    """

    tail: ClassVar[Roles] = {"conv3": nn.Conv2d, "bn3": nn.BatchNorm2d, "relu": nn.ReLU}
    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: Shortcut = "B",
        groups: int = 1,
        base_width: int = 64,
        fused: bool = True,
    ) -> None:
        out_channels = channels * self.expansion
        super().__init__(fused)
        width = int(channels * base_width / 64) * groups
        self.conv1 = _conv1x1(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that is added to the shortcut."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = self._activated(self.bn1, self.conv1(x))
        out = self._activated(self.bn2, self._behind(self.conv2, out))
        return self._tail(out, x)


class PreActBasicBlock(ResidualBlock):
    """The pre-activation form (He et al. 2016) of `BasicBlock`: norm and relu come ahead of each convolution.

    A shortcut that is not the identity takes the pre-activated input, and a projection has no norm.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *, shortcut: Shortcut = "B", fused: bool = True
    ) -> None:
        super().__init__(fused)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.downsample = make_shortcut(shortcut, in_channels, channels, stride, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self._activated(self.bn1, x)
        out = self._activated(self.bn2, self._behind(self.conv1, activated))
        shortcut_input = x if isinstance(self.downsample, IdentityShortcut) else activated
        return self._tail(self._behind(self.conv2, out), shortcut_input)


class PreActBottleneck(ResidualBlock):
    """The pre-activation form (He et al. 2016) of `Bottleneck`: norm and relu come ahead of each convolution.

    A shortcut that is not the identity takes the pre-activated input, and a projection has no norm.
    """

    tail: ClassVar[Roles] = {"conv3": nn.Conv2d}
    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: Shortcut = "B",
        groups: int = 1,
        base_width: int = 64,
        fused: bool = True,
    ) -> None:
        out_channels = channels * self.expansion
        super().__init__(fused)
        width = int(channels * base_width / 64) * groups
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv1x1(in_channels, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, groups)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, out_channels)
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self._activated(self.bn1, x)
        out = self._activated(self.bn2, self._behind(self.conv1, activated))
        out = self._activated(self.bn3, self._behind(self.conv2, out))
        shortcut_input = x if isinstance(self.downsample, IdentityShortcut) else activated
        return self._tail(out, shortcut_input)
