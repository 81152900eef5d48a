"""ResNets out of fused blocks.

``resnet18`` to ``resnet152``, the wide and the ResNeXt bodies have torchvision's layers under torchvision's names:
state_dicts are interchangeable. ``resnet20`` to ``resnet110`` are the CIFAR nets of the ResNet paper (section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .nn import BasicBlock, Bottleneck, PreActBasicBlock, PreActBottleneck, ProjectionShortcut, ResidualBlock, Shortcut


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling and a linear classifier.

    Args:
        block: makes a block from (in_channels, channels, stride, shortcut=, fused=).
        depths: blocks a stage; each stage after the first halves the resolution and doubles the channels.
        shortcut: how shortcuts cross a change of shape; one of `fused_resnet.nn.Shortcut`.
        num_classes: size of the output, (N, num_classes).
        in_channels: of the image, (N, in_channels, H, W).
        width: channels of the first stage.
        preactivation: for pre-activation blocks: no norm in the stem, a norm and relu after the last stage.
        small_images: a 3x3 stem that keeps the resolution, for CIFAR, in the place of ImageNet's.
        zero_init_residual: start with each block's last norm at zero, so that it begins as its shortcut.
        fused: False for the standard operations; `fused_resnet.fuse` and `fused_resnet.unfuse` switch it later.
    """

    def __init__(
        self,
        block: Callable[..., ResidualBlock],
        depths: tuple[int, ...],
        *,
        shortcut: Shortcut = "B",
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        preactivation: bool = False,
        small_images: bool = False,
        zero_init_residual: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.preactivation = preactivation
        if small_images:
            self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        if not preactivation:
            self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = [f"layer{i + 1}" for i in range(len(depths))]
        channels = width
        for i, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            blocks = []
            for stride in [1 if i == 0 else 2] + [1] * (depth - 1):
                blocks.append(block(channels, width << i, stride, shortcut=shortcut, fused=fused))
                channels = (width << i) * blocks[-1].expansion
            self.add_module(name, nn.Sequential(*blocks))
        if preactivation:
            self.norm = nn.BatchNorm2d(channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, ProjectionShortcut) and not module.trainable:
                module.reset_frozen_weight()
            if zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if not self.preactivation:
            x = self.relu(self.bn1(x))
        x = self.maxpool(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        if self.preactivation:
            x = self.relu(self.norm(x))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _basic(depths: tuple[int, ...], preactivation: bool = False, **options: Any) -> ResNet:
    block = PreActBasicBlock if preactivation else BasicBlock
    return ResNet(block, depths, preactivation=preactivation, **options)


def _bottleneck(
    depths: tuple[int, ...], groups: int = 1, base_width: int = 64, preactivation: bool = False, **options: Any
) -> ResNet:
    block = partial(PreActBottleneck if preactivation else Bottleneck, groups=groups, base_width=base_width)
    return ResNet(block, depths, preactivation=preactivation, **options)


def resnet18(**options: Any) -> ResNet:
    """ResNet-18. Options are those of `ResNet`, ``preactivation=True`` included."""
    return _basic((2, 2, 2, 2), **options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34. Options are those of `ResNet`, ``preactivation=True`` included."""
    return _basic((3, 4, 6, 3), **options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50. Options are those of `ResNet`, ``preactivation=True`` included."""
    return _bottleneck((3, 4, 6, 3), **options)


def resnet101(**options: Any) -> ResNet:
    """ResNet-101. Options are those of `ResNet`, ``preactivation=True`` included."""
    return _bottleneck((3, 4, 23, 3), **options)


def resnet152(**options: Any) -> ResNet:
    """ResNet-152. Options are those of `ResNet`, ``preactivation=True`` included."""
    return _bottleneck((3, 8, 36, 3), **options)


def wide_resnet50_2(**options: Any) -> ResNet:
    """ResNet-50 with 3x3 convolutions twice as wide."""
    return _bottleneck((3, 4, 6, 3), base_width=128, **options)


def wide_resnet101_2(**options: Any) -> ResNet:
    """ResNet-101 with 3x3 convolutions twice as wide."""
    return _bottleneck((3, 4, 23, 3), base_width=128, **options)


def resnext50_32x4d(**options: Any) -> ResNet:
    """ResNeXt-50 of 32 groups, 4 channels wide."""
    return _bottleneck((3, 4, 6, 3), groups=32, base_width=4, **options)


def resnext101_32x8d(**options: Any) -> ResNet:
    """ResNeXt-101 of 32 groups, 8 channels wide."""
    return _bottleneck((3, 4, 23, 3), groups=32, base_width=8, **options)


def resnext101_64x4d(**options: Any) -> ResNet:
    """ResNeXt-101 of 64 groups, 4 channels wide."""
    return _bottleneck((3, 4, 23, 3), groups=64, base_width=4, **options)


def cifar_resnet(depth: int, *, shortcut: Shortcut = "A", num_classes: int = 10, **options: Any) -> ResNet:
    """The ResNet paper's net for 32x32 images: ``depth`` = 6n + 2 layers, 16 to 64 channels.

    Raises:
        ValueError: the depth is not 6n + 2 with n of at least 1.
    """
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        raise ValueError(f"depth is {depth}, expected 6n + 2: 8, 14, 20, ...")
    return _basic((n, n, n), shortcut=shortcut, num_classes=num_classes, width=16, small_images=True, **options)


def resnet20(**options: Any) -> ResNet:
    """The CIFAR ResNet of 20 layers; options are those of `cifar_resnet`."""
    return cifar_resnet(20, **options)


def resnet32(**options: Any) -> ResNet:
    """The CIFAR ResNet of 32 layers; options are those of `cifar_resnet`."""
    return cifar_resnet(32, **options)


def resnet44(**options: Any) -> ResNet:
    """The CIFAR ResNet of 44 layers; options are those of `cifar_resnet`."""
    return cifar_resnet(44, **options)


def resnet56(**options: Any) -> ResNet:
    """The CIFAR ResNet of 56 layers; options are those of `cifar_resnet`."""
    return cifar_resnet(56, **options)


def resnet110(**options: Any) -> ResNet:
    """The CIFAR ResNet of 110 layers; options are those of `cifar_resnet`."""
    return cifar_resnet(110, **options)
