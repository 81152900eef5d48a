"""Incoming gradients that break kernels: not finite, huge or tiny in half precision, and relu's mask beside them."""

import pytest
import torch
from compare import assert_accurate, assert_as_accurate_as_unfused, fused, unfused
from samples import FUSED, Branch, Sample, build

from fused_resnet.strategy import use_strategy

HALF = (torch.float16, torch.bfloat16)

each_sample = pytest.mark.parametrize("sample", FUSED.values(), ids=FUSED)
each_half = pytest.mark.parametrize("dtype", HALF, ids=str)
each_mode = pytest.mark.parametrize("mode", ["training", "eval"])
each_source = pytest.mark.parametrize("source", ["direct", "projection"])


@pytest.fixture(params=["moments", "materialise"], autouse=True)
def _strategy(request):
    with use_strategy(request.param):
        yield


def assert_finite_where_unfused(case):
    tested, expected = fused(*case).gradients, unfused(*case).gradients
    for name, gradient in tested.items():
        # That of a bias ahead of a training norm is zero whatever happens.
        if not name.endswith("conv.bias"):
            assert torch.equal(gradient.isfinite(), expected[name].isfinite()), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@each_sample
def test_what_is_not_finite_in_the_gradient_shows_where_it_does_unfused(sample, value, device):
    """pytorch issue 7999: a NaN is swallowed by the relu; as a gradient it passes where the output is positive."""
    tail, inputs, dy = build(sample, device)
    positive = (tail.unfused(inputs) > 0).nonzero()[0]
    dy[tuple(positive)] = value
    assert_finite_where_unfused((tail, inputs, dy))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@each_sample
def test_what_is_not_finite_behind_the_mask_stays_there(sample, value, device):
    tail, inputs, dy = build(sample, device)
    if sample.activation is None:
        return
    dy[tuple((tail.unfused(inputs) < 0).nonzero()[0])] = value
    assert all(gradient.isfinite().all() for gradient in fused(tail, inputs, dy).gradients.values())


# Of the incoming gradient and of gamma: a loss scaled by 65536, gradients below float16's smallest normal number, and
# a gamma whose product with the weight float16 does not hold, while the gradient itself it does.
SCALES = [(4096.0, 1.0), (1e-6, 1.0), (1e-6, 1e-3), (1e-4, 1e5), (1e4, 1e-6), (1e-3, -1e3)]


@each_half
@each_mode
@each_source
@pytest.mark.parametrize(("of_gradient", "of_gamma"), SCALES)
def test_huge_and_tiny_gradients_keep_the_accuracy_of_half_precision(
    of_gradient, of_gamma, source, mode, dtype, device
):
    sample = Sample(Branch(source, mode, in_channels=33), Branch("direct"), shape=(4, 40, 9, 8)).with_dtype(dtype)
    tail, inputs, dy = build(sample, device)
    with torch.no_grad():
        tail.main.norm.weight.mul_(of_gamma)
        tail.main.norm.bias.mul_(of_gamma)
    assert_as_accurate_as_unfused(tail, inputs, dy * of_gradient)


@each_half
@each_mode
@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6, 1e8])
def test_channels_of_very_different_gammas_are_all_in_the_gradient(ratio, mode, dtype, device):
    """Each channel contributes as much: a large gamma with a small gradient, and the other way round."""
    sample = Sample(Branch("projection", mode, in_channels=33), None, None, shape=(4, 40, 9, 8)).with_dtype(dtype)
    tail, inputs, dy = build(sample, device)
    with torch.no_grad():
        scale = ratio ** torch.linspace(-0.5, 0.5, 40, device=device)
        tail.main.norm.weight.sign_().mul_(scale)
    case = tail, inputs, dy / scale.to(dtype)[:, None, None]
    exact = unfused(*case, dtype=torch.float64).gradients["main.x"]
    assert_accurate("gradient of x", fused(*case).gradients["main.x"], unfused(*case).gradients["main.x"], exact)
