"""Masks of a relu, packed into bits: what the kernels write, and what PyTorch's own operations make of it."""

import pytest
import torch
from emulated import on_kernels
from samples import FUSED, SAMPLES, build

import fused_resnet
from fused_resnet.operation.relu_mask import is_packed, masked, pack
from fused_resnet.strategy import use_strategy

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def saved_mask(sample, device):
    """A tail's output, and the packed mask that it saves; None where it saves none."""
    tail, inputs, _ = build(sample, device)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = tail.fused(inputs)
    return y.detach(), next(filter(is_packed, saved), None)


@on_kernels
@pytest.mark.covers("dtype")  # gradients of all samples depend on their masks
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sample", FUSED.values(), ids=FUSED)
def test_kernels_keep_a_bit_for_each_element_of_a_relu(sample, dtype, backend, device):
    """Of a norm by itself backward takes the mask from the norm's input, which it reads anyway."""
    with use_strategy("moments"):
        y, mask = saved_mask(sample.with_dtype(dtype), device)
    if sample.activation is None or (sample.shortcut is None and sample.main.source == "direct"):
        assert mask is None
        return
    ones = torch.ones_like(y)
    assert mask.shape == pack(y).shape
    assert torch.equal(masked(ones, mask), masked(ones, y))


@pytest.mark.covers("channels")
@pytest.mark.parametrize("channels", [1, 8, 31, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_mask_lets_the_same_gradients_pass(dtype, channels):
    y, dy = torch.randn(2, 3, channels, 5, 2).to(dtype)
    y = y.relu()
    y[0, 0, :2, 0] = torch.nan
    assert pack(y).dtype == torch.uint8
    assert torch.equal(masked(dy, pack(y)), torch.ops.aten.threshold_backward(dy, y, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_mask_has_a_sixteenth_of_the_bytes(dtype):
    y = torch.ones(2, 64, 3, 5, dtype=dtype)
    assert 16 * pack(y).nbytes == y.nbytes


@on_kernels
def test_either_backend_runs_the_backward_of_the_others_forward(backend, device):
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)

    def gradients(forward, backward):
        with fused_resnet.use_backend(forward):
            y = tail.fused(inputs)
        with fused_resnet.use_backend(backward):
            return torch.autograd.grad(y, [*inputs.values()], dy)

    expected = gradients("reference", "reference")
    for forward, backward in (("reference", backend), (backend, "reference")):
        torch.testing.assert_close(gradients(forward, backward), expected)
