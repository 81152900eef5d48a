"""What a call does to running statistics and to the number of batches tracked."""

import pytest
import torch
import torch.nn.functional as F
from samples import SAMPLES, Branch, Sample, build, norm_of
from torch import nn
from torch.utils.checkpoint import checkpoint

from fused_resnet.functional import Direct, Norm, Projection, residual_tail
from fused_resnet.strategy import use_strategy


@pytest.fixture(params=["moments", "library", "direct"])
def branch_with(request, device):
    """Makes a branch with the given norm over 6 channels, and the tensor that the norm sees."""
    x, weight = torch.randn(4, 5, 3, 2, device=device), torch.randn(6, 5, 1, 1, device=device)
    z = F.conv2d(x, weight)

    def make(norm):
        if request.param == "direct":
            return Direct(z, norm), z
        return Projection(x, weight, norm), z

    with use_strategy("auto" if request.param == "direct" else request.param):
        yield make


def norm_module(device, **options):
    return nn.BatchNorm2d(6, device=device, **options)


def test_running_variance_is_unbiased(branch_with, device):
    """pytorch issue 19902: running variance divides by M - 1, the normalisation by M."""
    norm = norm_module(device, momentum=1.0)
    branch, z = branch_with(norm_of(norm))
    y = residual_tail(branch, None, activation=None)
    torch.testing.assert_close(norm.running_var, z.var((0, 2, 3), correction=1))
    torch.testing.assert_close(norm.running_mean, z.mean((0, 2, 3)))
    torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(6, device=device), rtol=1e-4, atol=0)


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
def test_several_batches_move_the_statistics_as_the_module_does(branch_with, momentum, device):
    fused_norm, norm = norm_module(device, momentum=momentum), norm_module(device, momentum=momentum)
    for _ in range(3):
        branch, z = branch_with(norm_of(fused_norm))
        residual_tail(branch, None)
        norm(z)
    torch.testing.assert_close(fused_norm.running_mean, norm.running_mean)
    torch.testing.assert_close(fused_norm.running_var, norm.running_var)
    assert fused_norm.num_batches_tracked.item() == 3


def test_cumulative_average_of_different_batches_is_their_mean(device):
    """pytorch issue 194504: ``momentum=None`` averages over all batches so far."""
    norm = norm_module(device, momentum=None)
    batches = [torch.randn(4, 6, 3, 2, device=device) + i for i in range(4)]
    for z in batches:
        residual_tail(Direct(z, norm_of(norm)), None)
    expected = torch.stack([z.mean((0, 2, 3)) for z in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)


def test_evaluation_leaves_the_statistics_alone(branch_with, device):
    norm = norm_module(device).eval()
    norm.running_mean.normal_()
    before = {name: t.clone() for name, t in norm.named_buffers()}
    residual_tail(branch_with(norm_of(norm))[0], None)
    for name, buffer in norm.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_statistics_without_a_counter_are_updated(branch_with, device):
    mean, var = torch.zeros(6, device=device), torch.ones(6, device=device)
    branch, z = branch_with(Norm(running_mean=mean, running_var=var, momentum=0.5))
    residual_tail(branch, None)
    torch.testing.assert_close(mean, z.mean((0, 2, 3)) / 2)
    torch.testing.assert_close(var, (1 + z.var((0, 2, 3))) / 2)


def test_a_norm_shared_by_both_branches_counts_two_batches(device):
    norm, expected = norm_module(device), norm_module(device)
    a, b = torch.randn(2, 4, 6, 3, 3, device=device)
    residual_tail(Direct(a, norm_of(norm)), Direct(b, norm_of(norm)))
    expected(a), expected(b)
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    assert norm.num_batches_tracked.item() == 2


def test_statistics_of_half_precision_activations_stay_float32(device):
    sample = Sample(Branch("direct", "training"), Branch("projection", "training"), dtype=torch.bfloat16)
    tail, inputs, _ = build(sample, device)
    tail.fused(inputs)
    for name, buffer in tail.named_buffers():
        assert buffer.dtype in (torch.float32, torch.int64), name
    z = inputs["main.x"].detach().double()
    tail.main.norm.momentum = 1.0
    tail.fused(inputs)
    torch.testing.assert_close(tail.main.norm.running_mean.double(), z.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("strategy", ["moments", "library"])
@pytest.mark.parametrize("name", ["basic identity", "bottleneck projection", "cumulative averages"])
def test_activation_checkpointing_updates_them_as_unfused(name, strategy, reentrant, device):
    """pytorch issue 96136: checkpointing runs the forward twice, and the statistics move twice, as eager's do."""
    tail, inputs, dy = build(SAMPLES[name], device)
    expected, expected_inputs, _ = build(SAMPLES[name], device)
    expected.load_state_dict(tail.state_dict())
    expected_inputs = {n: x.detach().clone().requires_grad_() for n, x in inputs.items()}
    with use_strategy(strategy):
        checkpoint(
            lambda *xs: tail.fused(dict(zip(inputs, xs, strict=True))), *inputs.values(), use_reentrant=reentrant
        ).backward(dy)

    def unfused(*xs):
        return F.relu(expected.unfused(dict(zip(inputs, xs, strict=True))))

    checkpoint(unfused, *expected_inputs.values(), use_reentrant=reentrant).backward(dy)
    for buffer, value in expected.named_buffers():
        torch.testing.assert_close(tail.get_buffer(buffer), value, msg=buffer)
    assert tail.main.norm.num_batches_tracked.item() == 2
    for n, x in inputs.items():
        torch.testing.assert_close(x.grad, expected_inputs[n].grad, rtol=1e-4, atol=1e-5, msg=n)
