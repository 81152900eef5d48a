"""Models that `explain` is tested on, and what real calls of them take."""

import torch
from torch import Tensor, nn
from user_blocks import Block

import fused_resnet
from fused_resnet import models
from fused_resnet.nn import Bottleneck


def images(batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size)


def fused_block() -> Block:
    block = Block()
    fused_resnet.fuse(block)
    return block


def small_resnet(block: type[nn.Module] = Bottleneck, **options) -> nn.Module:
    return models.ResNet(block, (2, 1), num_classes=10, width=8, small_images=True, **options)
