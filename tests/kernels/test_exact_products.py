"""Products of weights and covariances on tensor cores are as exact as float32, whatever the covariances are."""

import pytest
import torch
from emulated import compiled_forward, on_kernels
from kernel_samples import each_dtype
from samples import Branch, Sample, build

from fused_resnet.strategy import use_strategy

CHANNELS = 70


def faint_differences(inputs, dtype, scale, device):
    """Input channels that move together, and a weight of which each row takes the difference of two of them."""
    sample = Sample(Branch("projection", "training", inputs), None, shape=(2, CHANNELS, 12, 12)).with_dtype(dtype)
    tail, tensors, _ = build(sample, device)
    generator = torch.Generator(device=device).manual_seed(0)

    def normal(channels):
        return torch.randn(2, channels, 12, 12, generator=generator, device=device)

    with torch.no_grad():
        tensors["main.x"].copy_(scale * (normal(1) + 0.05 * normal(inputs)))
        tail.main.conv.weight.zero_()
        for channel in range(CHANNELS):
            tail.main.conv.weight[channel, channel % inputs] = 1
            tail.main.conv.weight[channel, (7 * channel + 3) % inputs] -= 1
    return tail, tensors


@on_kernels
@each_dtype
@pytest.mark.parametrize("scale", [1.0, 5000.0, 1e-3])
@pytest.mark.parametrize("inputs", [24, 200])  # with one item for all inputs, and shared among several
def test_variance_is_that_of_the_covariance_to_a_floats_precision(inputs, scale, dtype, backend, device):
    """Two parts of bfloat16 in the place of three would be off by 64 times as much; float16 would overflow."""
    tail, tensors = faint_differences(inputs, dtype, scale, device)
    with use_strategy("moments"), torch.no_grad():
        call, _ = compiled_forward(backend, tail, tensors)
        call.run()
        statistics = call.statistics(0)
    weight, covariance = tail.main.conv.weight.detach()[:, :, 0, 0].double(), statistics.cov.double()
    exact = (weight @ covariance * weight).sum(1)
    terms = (weight.abs() @ covariance.abs() * weight.abs()).sum(1)
    assert (exact < 0.02 * terms).all()
    assert ((statistics.var.double() - exact).abs() <= 2.0**-22 * terms).all()
