"""Gradients in float32 with ``torch.backends.cudnn.allow_tf32``: about as accurate as those of convolutions in tf32.

These round what they multiply: dp and W for dx, dp and x for dW, besides x and W in the forward.
"""

import pytest
import torch
from compare import assert_as_accurate_as_unfused, fused, unfused
from emulated import on_kernels
from kernel_samples import PROJECTING, WITHOUT_PROJECTIONS, each, each_mode
from samples import Branch, Sample, build
from tf32 import tf32, with_rounding_convolutions


def test_backward_reference_rounds_the_operands_of_each_product():
    tail, inputs, dy = build(Sample(Branch("projection", bias=True), None, None))
    found = unfused(with_rounding_convolutions(tail), inputs, dy).gradients
    full = unfused(tail, inputs, dy).gradients
    assert torch.equal(found["main.conv.bias"], full["main.conv.bias"])
    for name in ("main.x", "main.conv.weight"):
        distance = (found[name] - full[name]).norm() / full[name].norm()
        assert 2**-14 < distance < 2**-10


@on_kernels
@each_mode
@each(PROJECTING)
def test_backward_with_tf32_is_as_accurate_as_convolutions_in_tf32(sample, mode, device):
    tail, inputs, dy = build(sample, device)
    tail.train(mode != "evaluation")
    with tf32(True):
        assert_as_accurate_as_unfused(tail, inputs, dy, with_rounding_convolutions(tail))


@on_kernels
@each_mode
@each(PROJECTING)
def test_backward_with_tf32_differs_from_full_float32(sample, mode, device):
    tail, inputs, dy = build(sample, device)
    found = []
    for allowed in (True, False):
        tail.train(mode != "evaluation")
        with tf32(allowed):
            found.append(fused(tail, inputs, dy).gradients)
    projected = next(name for name in ("main", "shortcut") if getattr(tail, name).conv is not None)
    assert not torch.equal(*(gradients[f"{projected}.x"] for gradients in found))


@on_kernels
@each_mode
@each(WITHOUT_PROJECTIONS)
def test_backward_with_tf32_rounds_no_direct_source(sample, mode, device):
    tail, inputs, dy = build(sample, device)
    tail.train(mode != "evaluation")
    with tf32(True):
        assert_as_accurate_as_unfused(tail, inputs, dy)


@on_kernels
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, -3.5, 10.0, -30.0])
def test_backward_with_tf32_of_a_large_mean(ratio, layout, device):
    main, shortcut = (Branch("projection", "training", k, layout=layout) for k in (20, 36))
    tail, inputs, dy = build(Sample(main, shortcut, shape=(4, 24, 11, 10)), device)
    inputs = {name: (x.detach() - 0.5 + ratio).requires_grad_() for name, x in inputs.items()}
    with tf32(True):
        assert_as_accurate_as_unfused(tail, inputs, dy, with_rounding_convolutions(tail))
