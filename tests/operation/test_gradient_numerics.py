"""Incoming gradients that break kernels: not finite, huge or tiny in half precision, and relu's mask beside them."""

import pytest
import torch
from compare import assert_accurate, assert_as_accurate_as_unfused, fused, unfused
from samples import FUSED, Branch, Sample, build

from fused_resnet.functional import Direct, Norm, residual_tail
from fused_resnet.strategy import use_strategy

HALF = (torch.float16, torch.bfloat16)

each_sample = pytest.mark.parametrize("sample", FUSED.values(), ids=FUSED)
each_half = pytest.mark.parametrize("dtype", HALF, ids=str)
each_mode = pytest.mark.parametrize("mode", ["training", "eval"])
each_source = pytest.mark.parametrize("source", ["direct", "projection"])


@pytest.fixture(params=["moments", "library"], autouse=True)
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


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [5, 16])
def test_mask_of_a_norm_by_itself_is_that_of_its_output(channels, dtype, training, device):
    """The kernels take it from the input: small positive values that rounding makes zero must not count."""
    x = torch.randn(2, channels, 9, 7, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    gamma = torch.full((channels,), 6e-8, device=device, requires_grad=True)  # of the smallest half-precision numbers
    beta = torch.zeros(channels, device=device, requires_grad=True)
    statistics = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    y = residual_tail(Direct(x, Norm(gamma, beta, *statistics, momentum=0.0, training=training)), None)
    dy = torch.randint(1, 4, y.shape, device=device).to(dtype)
    (found,) = torch.autograd.grad(y, beta, dy)
    mask = y > 0
    assert torch.equal(found, (dy.float() * mask).sum((0, 2, 3)))
    if dtype == torch.float16:
        assert mask.sum() < ((x - x.float().mean((0, 2, 3), keepdim=True)) > 0).sum()


def test_sums_of_equal_numbers_stay_accurate(device):
    """One channel is the worst case: a block's threads share its rows, and each has a few. In a single chain of float32
    additions, the error of equal terms grows with their number, for all round alike."""
    tail, inputs, dy = build(Sample(Branch("direct", "training"), None, None, shape=(4, 1, 16, 16)), device)
    dbeta = fused(tail, inputs, torch.full_like(dy, 0.1)).gradients["main.norm.bias"].item()
    expected = dy.numel() * torch.tensor(0.1).double().item()
    assert abs(dbeta / expected - 1) < 4e-7
