"""Inputs whose elements lie further apart than 32 bits count: the forward gives the bits of compact copies."""

import copy

import pytest
import torch
from emulated import forward_call, on_kernels
from far_apart import DTYPE, described, each_case, each_source, far_apart, new_norm
from kernel_samples import each_mode
from same_bits import assert_same_bits
from samples import norm_of

from fused_resnet.operation.branches import Direct, Projection


def outcome(backend, main, shortcut, norms):
    """The output and the running statistics of a forward whose norms are copies."""
    norms = [copy.deepcopy(norm) for norm in norms]
    call, y = forward_call(backend, main(norm_of(norms[0])), shortcut(norm_of(norms[1])))
    call.run()
    return {"y": y, **{f"{name} {i}": buffer for i, norm in enumerate(norms) for name, buffer in norm.named_buffers()}}


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

    with torch.no_grad():
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

    with torch.no_grad():
        assert_same_bits(result(far_apart(weight, dim)), result(weight))


@on_kernels
@each_mode
def test_forward_of_images_far_apart_that_share_a_tile(mode, backend, device):
    """Each image is half of the tile, and what is copied 16 bytes at a time."""
    x, other = (torch.randn(2, channels, 8, 8, device=device).to(DTYPE) for channels in (32, 128))
    weight = torch.randn(128, 32, 1, 1, device=device).to(DTYPE)
    norms = [new_norm(128, mode, device) for _ in range(2)]

    def result(move):
        return outcome(
            backend, lambda norm: Projection(move(x), weight, norm), lambda norm: Direct(move(other), norm), norms
        )

    with torch.no_grad():
        compact = result(lambda t: t.contiguous(memory_format=torch.channels_last))
        assert_same_bits(result(lambda t: far_apart(t, 0)), compact)
