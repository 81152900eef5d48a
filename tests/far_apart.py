"""What lies further apart in memory than 32 bits count, forward and backward, and compact copies of it.

On a CPU its memory takes up hardly any room: what lies between the elements is never touched.
"""

import pytest
import torch
from torch import nn

from fused_resnet.operation.branches import Direct, Projection, ZeroPad

FAR = 2**31 + 16  # elements; a multiple of 16 bytes
DTYPE = torch.bfloat16

each_source = pytest.mark.parametrize("source", ["direct", "zero_pad", "projection"])
# The dimension of large stride, and numbers of channels that are read one by one, or 16 bytes at once.
each_case = pytest.mark.parametrize(
    ("dim", "channels"),
    [
        pytest.param(dim, channels, id=f"{channels} channels, far {('images', 'channels', 'rows', 'columns')[dim]}")
        for dim, channels in [(0, 3), (0, 16), (1, 3), (2, 3), (2, 16), (3, 3), (3, 16)]
    ],
)


def far_apart(x, dim):
    """The same numbers, `FAR` elements apart along one dimension, channels_last along the others."""
    order = [d for d in ((0, 2, 3, 1) if x.dim() == 4 else range(x.dim())) if d != dim]
    strides, distance = [FAR] * x.dim(), 1
    for d in reversed(order):
        strides[d], distance = distance, distance * x.shape[d]
    elements = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, strides, strict=True))
    if x.is_cuda and torch.cuda.mem_get_info()[0] < 2 * elements * x.element_size():
        pytest.skip("too little memory")
    return x.new_empty(elements).as_strided(x.shape, strides).copy_(x)


def new_norm(channels, mode, device):
    norm = nn.BatchNorm2d(channels, device=device).train(mode != "evaluation")
    for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2.0) if name == "running_var" else nn.init.normal_(tensor)
    return norm


def described(source, x, weight, norm, out_channels):
    if source == "direct":
        return Direct(x, norm)
    if source == "zero_pad":
        return ZeroPad(x, out_channels, 2, "both")
    return Projection(x, weight, norm, 2)
