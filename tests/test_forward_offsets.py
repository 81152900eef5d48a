"""Inputs whose elements lie further apart than 32 bits count: the forward gives the bits of compact copies.

On a CPU their memory takes up hardly any room: what lies between the elements is never touched.
"""

import copy

import pytest
import torch
from emulated import forward_call, on_kernels
from samples import norm_of
from torch import nn

from fused_resnet.branches import Direct, Projection, ZeroPad
from fused_resnet.strategy import use_strategy

FAR = 2**31 + 16  # elements; a multiple of 16 bytes
DTYPE = torch.bfloat16

each_mode = pytest.mark.parametrize("mode", ["moments", "materialise", "evaluation"])
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


def outcome(backend, main, shortcut, norms):
    """The output and the running statistics of a forward whose norms are copies."""
    norms = [copy.deepcopy(norm) for norm in norms]
    call, y = forward_call(backend, main(norm_of(norms[0])), shortcut(norm_of(norms[1])))
    call.run()
    return [y, *(buffer for norm in norms for buffer in norm.buffers())]


def assert_same_bits(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def described(source, x, weight, norm, out_channels):
    if source == "direct":
        return Direct(x, norm)
    if source == "zero_pad":
        return ZeroPad(x, out_channels, 2, "both")
    return Projection(x, weight, norm, 2)


@on_kernels
@each_mode
@each_source
@each_case
def test_forward_of_inputs_far_apart_in_memory(dim, channels, source, mode, backend, device):
    out_channels = channels if source == "direct" else 19
    size = 2 if source == "direct" else 3  # of which every other pixel is read
    x = torch.randn(2, channels, size, size, device=device).to(DTYPE)
    weight = torch.randn(out_channels, channels, 1, 1, device=device).to(DTYPE)
    norms = [new_norm(out_channels, mode, device) for _ in range(2)]
    other = torch.randn(2, out_channels, 2, 2, device=device).to(DTYPE)

    def result(x):
        return outcome(
            backend,
            lambda norm: described(source, x, weight, norm, out_channels),
            lambda norm: Direct(other, norm),
            norms,
        )

    with use_strategy("materialise" if mode == "materialise" else "moments"), torch.no_grad():
        assert_same_bits(result(far_apart(x, dim)), result(x))


@on_kernels
@each_mode
@pytest.mark.parametrize("dim", [0, 1], ids=["output channels", "input channels"])
def test_forward_of_a_weight_far_apart_in_memory(dim, mode, backend, device):
    x, other = torch.randn(2, 2, 3, 3, 3, device=device).to(DTYPE)
    weight = torch.randn(3, 3, 1, 1, device=device).to(DTYPE)
    norms = [new_norm(3, mode, device) for _ in range(2)]

    def result(weight):
        return outcome(backend, lambda norm: Projection(x, weight, norm), lambda norm: Direct(other, norm), norms)

    with use_strategy("materialise" if mode == "materialise" else "moments"), torch.no_grad():
        assert_same_bits(result(far_apart(weight, dim)), result(weight))
