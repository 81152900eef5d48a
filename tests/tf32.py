"""tf32 as PyTorch allows it, and as a CPU can imitate it: products of rounded operands."""

import copy
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def tf32(allowed):
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def rounded(x):
    """To 10 bits of mantissa, to the nearest, ties away from zero. The bits of a float count up with its magnitude."""
    return (x.detach().view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)


class _Convolution(torch.autograd.Function):
    """Without a bias, of rounded operands; its backward rounds those of its own products."""

    @staticmethod
    def forward(ctx, x, weight, stride):
        ctx.operands, ctx.stride = (rounded(x), rounded(weight)), stride
        return torch.conv2d(*ctx.operands, stride=stride)

    @staticmethod
    def backward(ctx, dp):
        of_x, of_weight = (t.requires_grad_() for t in ctx.operands)
        with torch.enable_grad():
            p = torch.conv2d(of_x, of_weight, stride=ctx.stride)
        return *torch.autograd.grad(p, (of_x, of_weight), rounded(dp)), None


class RoundingConv2d(nn.Conv2d):
    """A 1x1 convolution in tf32, wherever it runs."""

    def forward(self, x):
        p = _Convolution.apply(x, self.weight, self.stride)
        return p if self.bias is None else p + self.bias[:, None, None]


def with_rounding_convolutions(tail):
    """A copy of the tail whose unfused convolutions are in tf32."""
    tail = copy.deepcopy(tail)
    for module in tail.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = RoundingConv2d
    return tail
