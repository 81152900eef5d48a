"""Numbers that break kernels: not finite, large, far from zero, constant; gammas of zero and below."""

import pytest
import torch
from compare import assert_as_accurate_as_unfused, fused, unfused
from samples import SAMPLES, Branch, Sample, build

from fused_resnet.backends.pytorch.moments import cancellation
from fused_resnet.operation.branches import Projection
from fused_resnet.strategy import use_strategy

MODES = ("training", "eval")
SOURCES = ("direct", "projection")

each_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
each_mode = pytest.mark.parametrize("mode", MODES)
each_source = pytest.mark.parametrize("source", SOURCES)


@pytest.fixture(params=["moments", "library"], autouse=True)
def _strategy(request):
    with use_strategy(request.param):
        yield


def kinds(x):
    """Which elements are NaN, +inf, -inf and finite."""
    return torch.stack([x.isnan(), x.isposinf(), x.isneginf(), x.isfinite()])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@each_sample
def test_what_is_not_finite_shows_where_it_does_unfused(sample, value, device):
    """pytorch issue 7999: a NaN is swallowed by the relu; NaN in must be NaN out."""
    for changed in ("main.x", "shortcut.x"):
        tail, inputs, dy = build(sample, device)
        if changed not in inputs:
            continue
        with torch.no_grad():
            inputs[changed][0, 0, 0, 0] = value
        assert not tail.unfused(inputs).isfinite().all()
        tested, expected = fused(tail, inputs, dy), unfused(tail, inputs, dy)
        assert torch.equal(kinds(tested.output), kinds(expected.output))
        for name, gradient in tested.gradients.items():
            # That of a bias ahead of a training norm is zero whatever happens.
            if not name.endswith("conv.bias"):
                assert torch.equal(gradient.isfinite(), expected.gradients[name].isfinite()), name


def far_from_zero(sample, device, offset=30.0):
    """A sample whose input channels all have means of 30 standard deviations, of either sign."""
    tail, inputs, dy = build(sample, device)
    with torch.no_grad():
        for x in inputs.values():
            x += offset * torch.randn(x.shape[1], 1, 1, device=device).sign().to(x.dtype)
    calibrate(tail, inputs)
    return tail, inputs, dy


@torch.no_grad()
def calibrate(tail, inputs):
    """Sets running statistics to the batch's: those of a trained network fit its inputs."""
    for name, branch in tail.named_children():
        if branch is None or branch.norm is None or branch.norm.training:
            continue
        z = inputs[f"{name}.x"] if branch.conv is None else branch.conv(inputs[f"{name}.x"])
        branch.norm.running_mean.copy_(z.float().mean((0, 2, 3)))
        branch.norm.running_var.copy_(z.float().var((0, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@each_mode
@each_source
def test_inputs_with_large_means_keep_the_accuracy(source, mode, dtype, device):
    """tt-metal issue 45968: the variance cancels where the mean is large against the spread."""
    sample = Sample(Branch(source, mode, in_channels=32), Branch("projection", mode, 32, stride=2), shape=(8, 24, 9, 9))
    assert_as_accurate_as_unfused(*far_from_zero(sample.with_dtype(dtype), device))


def test_variance_of_large_means_does_not_cancel(device):
    sample = Sample(Branch("projection", "training", in_channels=32, momentum=1.0), None, shape=(8, 24, 9, 9))
    tail, inputs, dy = far_from_zero(sample, device, offset=1000.0)
    exact = tail.double().main.conv(inputs["main.x"].detach().double()).var((0, 2, 3))
    tested = fused(tail.float(), inputs, dy).buffers["main.norm.running_var"]
    torch.testing.assert_close(tested.double(), exact, rtol=1e-3, atol=0)


def moving_together(own, device):
    """A projection whose input channels are one signal and some noise of their own, which it takes differences of."""
    sample = Sample(Branch("projection", "training", in_channels=64), Branch("direct"), shape=(4, 64, 28, 28))
    tail, inputs, dy = build(sample, device)
    with torch.no_grad():
        x = inputs["main.x"]
        x.copy_(torch.relu(torch.randn(4, 1, 28, 28) + own * torch.randn(x.shape)))
    return tail, inputs, dy


@pytest.mark.parametrize("own", [1.0, 0.3])
def test_channels_that_move_together_keep_the_accuracy(own, device):
    assert_as_accurate_as_unfused(*moving_together(own, device))


def test_moments_of_channels_that_are_nearly_one_lose_what_cancellation_says(device):
    """As README's limits have it. Noise of a hundredth: the rule of accuracy does not hold there."""
    tail, inputs, dy = moving_together(0.01, device)
    x, weight = inputs["main.x"].detach(), tail.main.conv.weight.detach()
    magnified = cancellation(Projection(x, weight, None))
    assert magnified > 30
    tested, exact = fused(tail, inputs, dy), unfused(tail, inputs, dy, dtype=torch.float64)
    error = (tested.output.double() - exact.output).norm() / exact.output.norm()
    assert error < 4 * 2.0**-24 * magnified


@each_mode
@pytest.mark.parametrize("gammas", [(0.0, -1.5, 0.7), (0.0, 0.0, 0.0), (-0.3, -2.0, -1.0)], ids=str)
@each_source
def test_gammas_of_zero_and_below(source, gammas, mode, device):
    """timm's zero_init_last and inplace_abn's |gamma|: a gamma of zero kills no gradient of its own."""
    tail, inputs, dy = build(Sample(Branch(source, mode), Branch("direct"), shape=(4, 3, 5, 5)), device)
    with torch.no_grad():
        tail.main.norm.weight.copy_(torch.tensor(gammas))
        tail.main.norm.bias.zero_()  # so that the relu leaves something of every channel
        tail.main.norm.running_mean.zero_()
    tested = assert_as_accurate_as_unfused(tail, inputs, dy)
    assert tested.gradients["main.norm.weight"].abs().min() > 0
    dead = [c for c, gamma in enumerate(gammas) if gamma == 0]
    if source == "projection":
        assert not tested.gradients["main.conv.weight"][dead].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_norms_may_be_of_half_precision_themselves(dtype, device):
    """As `model.half()` makes them: parameters, their gradients and running statistics."""
    tail = Sample(Branch("projection", "training"), Branch("direct", "training"), dtype=dtype, norm_dtype=dtype)
    assert_as_accurate_as_unfused(*build(tail, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gammas", [(1.0, 0.0), (0.0, 0.0), (1e-30, 0.0), (-2.0, 1e-12), (1e-12, -2.0)])
def test_projections_of_which_one_is_nothing_beside_the_other(gammas, mode, dtype, device):
    """The kernels scale one product by the other's norm: no scale may get lost in it, or be divided by."""
    projection = Branch("projection", mode)
    tail, inputs, dy = build(Sample(projection, projection, None).with_dtype(dtype), device)
    with torch.no_grad():
        for branch, gamma in zip((tail.main, tail.shortcut), gammas, strict=True):
            branch.norm.weight.fill_(gamma)
    assert_as_accurate_as_unfused(tail, inputs, dy)


@each_source
@pytest.mark.parametrize("value", [0.0, 0.7, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_constant_input_has_no_variance(source, value, dtype, device):
    """tt-metal issue 45968: variance by cancellation goes negative, and its root is NaN."""
    sample = Sample(Branch(source, "training", momentum=1.0), None, None, shape=(4, 9, 8, 8)).with_dtype(dtype)
    tail, inputs, dy = build(sample, device)
    with torch.no_grad():
        inputs["main.x"].fill_(value)
    tested, expected = fused(tail, inputs, dy), unfused(tail, inputs, dy)
    assert tested.buffers["main.norm.running_var"].min() >= 0
    assert all(gradient.isfinite().all() for gradient in tested.gradients.values())
    # 1 / sqrt(eps) = 316 magnifies how far the mean of equal numbers is off by rounding.
    beta = tail.main.norm.bias.detach()[:, None, None]
    for output in (tested.output, expected.output):
        torch.testing.assert_close(output.float(), beta.expand_as(output), rtol=1e-2, atol=max(abs(value), 1) * 1e-4)


def test_weight_rows_of_zero(device):
    sample = Sample(Branch("projection", "training", momentum=1.0), Branch("direct"), shape=(4, 9, 8, 8))
    tail, inputs, dy = build(sample, device)
    with torch.no_grad():
        tail.main.conv.weight[::2] = 0
    tested = assert_as_accurate_as_unfused(tail, inputs, dy)
    assert not tested.buffers["main.norm.running_var"][::2].any()


def test_nearly_dependent_channels_have_no_negative_variance(device):
    """pytorch PR 178123: a quadratic form that rounding takes below zero."""
    sample = Sample(Branch("projection", "training", in_channels=16, momentum=1.0), None, shape=(4, 200, 8, 8))
    tail, inputs, dy = build(sample, device)
    with torch.no_grad():
        inputs["main.x"].copy_(inputs["main.x"][:, :1] * torch.randn(16, 1, 1, device=device))
        # Rows at right angles to the one direction in which the input varies: their variance is zero.
        direction = torch.nn.functional.normalize(inputs["main.x"][0, :, 0, 0], dim=0)
        tail.main.conv.weight -= (tail.main.conv.weight[..., 0, 0] @ direction)[:, None, None, None] * direction[
            :, None, None
        ]
    tested = fused(tail, inputs, dy)
    assert tested.buffers["main.norm.running_var"].min() >= 0
    assert tested.output.isfinite().all()


@each_mode
@each_source
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_large_half_precision_inputs(source, mode, scale, device):
    """pytorch PR 178123: squares and sums of float16 overflow, where the values themselves do not."""
    sample = Sample(Branch(source, mode, in_channels=64), None, shape=(4, 16, 8, 8)).with_dtype(torch.float16)
    tail, inputs, dy = build(sample, device)
    with torch.no_grad():
        inputs["main.x"].clamp_(-3, 3).mul_(scale)
        if tail.main.conv is not None:
            tail.main.conv.weight.mul_(0.1)
    calibrate(tail, inputs)
    tested = assert_as_accurate_as_unfused(tail, inputs, dy)
    assert tested.output.isfinite().all()
