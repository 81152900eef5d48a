"""Tensors whose elements lie further apart than 32 bits count: the backward gives the bits of compact copies.

flashinfer issue 3391, flash-fft-conv issue 27: offsets beyond 2^31 elements.
"""

import pytest
import torch
from emulated import backward_call, on_kernels
from far_apart import DTYPE, described, each_case, each_source, far_apart, new_norm
from kernel_samples import each_mode
from same_bits import assert_same_bits
from samples import norm_of

from fused_resnet.operation.branches import Direct, Projection


def gradients(backend, main, shortcut, dy):
    call, found = backward_call(backend, main, shortcut, "relu", dy)
    call.run()
    return found


def random(*shape, device):
    return torch.randn(shape, device=device).to(DTYPE).requires_grad_()


@on_kernels
@each_mode
@each_source
@each_case
def test_backward_of_tensors_far_apart_in_memory(dim, channels, source, mode, backend, device):
    out_channels = channels if source == "direct" else 3 if dim == 1 else 16
    channels = min(channels, out_channels)
    size = 2 if source == "direct" else 3  # of which every other pixel is read
    x = random(2, channels, size, size, device=device)
    weight = random(out_channels, channels, 1, 1, device=device)
    norms = [norm_of(new_norm(out_channels, mode, device)) for _ in range(2)]
    other, dy = random(2, 2, out_channels, 2, 2, device=device)

    def result(move):
        moved = move(x.detach()).requires_grad_()
        branches = described(source, moved, weight, norms[0], out_channels), Direct(other, norms[1])
        return gradients(backend, *branches, move(dy.detach()))

    with torch.no_grad():
        assert_same_bits(result(lambda t: far_apart(t, dim)), result(lambda t: t))


@on_kernels
@each_mode
@pytest.mark.parametrize("dim", [0, 1], ids=["output channels", "input channels"])
def test_backward_of_a_weight_far_apart_in_memory(dim, mode, backend, device):
    x, other, dy = random(3, 2, 3, 3, 3, device=device)
    weight = random(3, 3, 1, 1, device=device).detach()
    norms = [norm_of(new_norm(3, mode, device)) for _ in range(2)]

    def result(weight):
        branches = Projection(x, weight.requires_grad_(), norms[0]), Direct(other, norms[1])
        return gradients(backend, *branches, dy)

    with torch.no_grad():
        assert_same_bits(result(far_apart(weight, dim)), result(weight))


@on_kernels
@each_mode
def test_backward_of_images_far_apart_that_share_a_tile(mode, backend, device):
    """Each image is half of the tile, and what is copied 16 bytes at a time."""
    x, other, dy = (random(2, channels, 8, 8, device=device) for channels in (32, 128, 128))
    weight = random(128, 32, 1, 1, device=device)
    norms = [norm_of(new_norm(128, mode, device)) for _ in range(2)]

    def result(move):
        moved = move(x.detach()).requires_grad_()
        branches = Projection(moved, weight, norms[0]), Direct(other, norms[1])
        return gradients(backend, *branches, move(dy.detach()))

    with torch.no_grad():
        compact = result(lambda t: t.contiguous(memory_format=torch.channels_last))
        assert_same_bits(result(lambda t: far_apart(t, 0)), compact)
