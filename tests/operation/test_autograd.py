"""How a tail behaves as a node of autograd's graph."""

import copy

import pytest
import torch
import torch.nn.functional as F
from compare import fused, unfused
from emulated import on_kernels
from samples import FUSED, SAMPLES, Branch, Sample, build

from fused_resnet.functional import Direct, Norm, Projection, residual_tail
from fused_resnet.strategy import use_strategy


@pytest.fixture(autouse=True)
def _moments():
    with use_strategy("moments"):
        yield


@pytest.mark.covers("backend")
@pytest.mark.parametrize("sample", FUSED.values(), ids=FUSED)
def test_double_backward_is_refused(sample, device):
    tail, inputs, dy = build(sample, device)
    dy.requires_grad_()
    # The gradient of a plain input without a relu is dy itself, which may be differentiated.
    plain = sample.main.source == "direct" and sample.main.norm is None and sample.activation is None
    x, y = inputs["shortcut.x" if plain else "main.x"], tail.fused(inputs)
    with pytest.raises(RuntimeError, match=r"twice|double"):
        torch.autograd.grad(y, x, dy, create_graph=True)[0].square().sum().backward()


def test_gradient_penalty_is_refused_rather_than_ignored(device):
    """pytorch issue 76185: double backward is silently wrong, here as a penalty whose gradient would be missing."""
    tail, inputs, _ = build(SAMPLES["bottleneck projection"], device)
    x, y = inputs["main.x"], tail.fused(inputs)
    with pytest.raises(RuntimeError, match=r"twice|double"):
        (y.mean() + torch.autograd.grad(y.sum(), x, create_graph=True)[0].square().sum()).backward()


def test_gradient_does_not_follow_later_changes_of_the_running_statistics(device):
    """pytorch issue 13402: running statistics change between an evaluation's forward and its backward."""
    for name in ("basic frozen", "bottleneck evaluated", "bottleneck with a frozen shortcut"):
        tail, inputs, dy = build(SAMPLES[name], device)
        expected = fused(tail, inputs, dy).gradients
        y = tail.fused(inputs)
        for buffer in tail.buffers():
            buffer.add_(1)
        y.backward(dy)
        for n, tensor in (*inputs.items(), *tail.named_parameters()):
            assert torch.equal(tensor.grad, expected[n]), n


def norm_over(channels, device):
    weight, bias = (torch.randn(channels, device=device, requires_grad=True) for _ in range(2))
    return Norm(weight, bias)


@pytest.mark.parametrize("activation", ["relu", None])
def test_one_tensor_as_both_branches(activation, device):
    x = torch.randn(3, 6, 4, 4, dtype=torch.double, device=device, requires_grad=True)
    w = torch.randn(6, 6, 1, 1, dtype=torch.double, device=device, requires_grad=True)
    dy = torch.randn_like(x)
    y = residual_tail(Projection(x, w, Norm()), Direct(x, Norm()), activation=activation)
    z = F.batch_norm(F.conv2d(x, w), None, None, training=True) + F.batch_norm(x, None, None, training=True)
    expected = torch.autograd.grad(F.relu(z) if activation else z, (x, w), dy)
    torch.testing.assert_close(torch.autograd.grad(y, (x, w), dy), expected)


def test_input_that_is_used_elsewhere_too(device):
    x = torch.randn(3, 6, 4, 4, dtype=torch.double, device=device, requires_grad=True)
    w = torch.randn(6, 6, 1, 1, dtype=torch.double, device=device, requires_grad=True)
    other = torch.randn_like(x)
    y = residual_tail(Projection(x, w, Norm()), Direct(x), activation=None)
    expected = F.batch_norm(F.conv2d(x, w), None, None, training=True) + x
    loss, expected_loss = (((t + x.sin()) * other).sum() for t in (y, expected))
    torch.testing.assert_close(torch.autograd.grad(loss, (x, w)), torch.autograd.grad(expected_loss, (x, w)))


def test_gradient_shared_by_two_tails_is_not_corrupted(device):
    """inplace_abn issue 155: an in-place backward corrupts a gradient that somebody else reads too."""
    tails = [build(sample, device) for sample in FUSED.values() if sample.activation is None]
    tails += [
        build(Sample(Branch("projection", mode), Branch("direct"), None), device) for mode in ("training", "eval")
    ]
    dy = tails[0][2]
    original = dy.clone()
    expected = [fused(tail, inputs, original.clone()).gradients for tail, inputs, _ in tails]
    sum(tail.fused(inputs) for tail, inputs, _ in tails).backward(dy)
    assert torch.equal(dy, original)
    for (tail, inputs, _), gradients in zip(tails, expected, strict=True):
        for name, tensor in (*inputs.items(), *tail.named_parameters()):
            torch.testing.assert_close(tensor.grad, gradients[name], msg=name)


def test_gradients_of_different_tensors_do_not_share_memory(device):
    for sample in SAMPLES.values():
        tail, inputs, dy = build(sample, device)
        tail.fused(inputs).backward(dy)
        storages = [t.grad.untyped_storage().data_ptr() for t in (*inputs.values(), *tail.parameters())]
        assert len({*storages, dy.untyped_storage().data_ptr()}) == len(storages) + 1


@pytest.mark.parametrize("name", ["basic projection", "bottleneck evaluated", "convolution biases"])
def test_parts_that_ask_for_no_gradient_get_none(name, device):
    tail, inputs, dy = build(SAMPLES[name], device)
    whole = fused(tail, inputs, dy).gradients
    for wanted in whole:
        part_tail = copy.deepcopy(tail)
        for n, parameter in part_tail.named_parameters():
            parameter.requires_grad_(n == wanted)
        part_inputs = {n: x.detach().requires_grad_(n == wanted) for n, x in inputs.items()}
        part = fused(part_tail, part_inputs, dy).gradients
        assert list(part) == [wanted]
        torch.testing.assert_close(part[wanted], whole[wanted], msg=wanted)


def test_nothing_asks_for_a_gradient(device):
    tail, inputs, _ = build(SAMPLES["bottleneck projection"], device)
    tail.requires_grad_(False)
    y = tail.fused({n: x.detach() for n, x in inputs.items()})
    assert y.grad_fn is None
    assert not y.requires_grad


def test_accumulation_over_two_backward_passes(device):
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    once = fused(tail, inputs, dy).gradients
    y = tail.fused(inputs)
    y.backward(dy, retain_graph=True)
    y.backward(dy)
    for name, tensor in (*inputs.items(), *tail.named_parameters()):
        torch.testing.assert_close(tensor.grad, 2 * once[name], msg=name)


@pytest.mark.parametrize("name", ["basic identity", "bottleneck projection", "cumulative averages"])
def test_two_calls_ahead_of_backward(name, device):
    """A block that sees two batches, as in a siamese network: the second call moves the statistics of the first."""
    tail, first, dy = build(SAMPLES[name], device)
    second = {n: torch.randn_like(x).requires_grad_() for n, x in first.items()}
    expected = [fused(tail, inputs, dy).gradients for inputs in (first, second)]
    (tail.fused(first) + tail.fused(second)).backward(dy)
    for inputs, gradients in zip((first, second), expected, strict=True):
        for n, x in inputs.items():
            torch.testing.assert_close(x.grad, gradients[n], msg=n)
    for n, parameter in tail.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[0][n] + expected[1][n], msg=n)


def test_an_unfused_norm_on_the_same_statistics_may_be_waiting_for_its_backward(device):
    """PyTorch moves running statistics without a new version of the buffer, so that this is no error."""
    tail, inputs, dy = build(SAMPLES["bottleneck plain"], device)
    expected = fused(tail, inputs, dy).gradients["main.x"]
    waiting = tail.unfused(inputs).relu()
    (waiting + tail.fused(inputs)).backward(dy)
    torch.testing.assert_close(inputs["main.x"].grad, 2 * expected, rtol=1e-4, atol=1e-5)


def test_output_may_be_changed_in_place_where_backward_does_not_need_it(device):
    tail, inputs, dy = build(SAMPLES["preactivation identity"], device)
    expected = unfused(tail, inputs, dy).gradients
    y = tail.fused(inputs)
    y.mul_(2)
    y.backward(dy / 2)
    for name, x in inputs.items():
        torch.testing.assert_close(x.grad, expected[name], msg=name)


def test_input_changed_in_place_where_backward_needs_it_is_noticed(device):
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    y = tail.fused(inputs)
    inputs["main.x"].detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(dy)


@pytest.mark.parametrize("backend", ["reference"], indirect=True)
def test_output_changed_in_place_where_backward_needs_it_is_noticed(backend, device):
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    y = tail.fused(inputs)
    y.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(dy)


@on_kernels
def test_output_of_the_kernels_may_change_in_place(backend, device):
    """They keep the relu's mask as bits."""
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    expected = torch.autograd.grad(tail.fused(inputs), [*inputs.values()], dy)
    y = tail.fused(inputs)
    y.detach().add_(1)
    assert all(map(torch.equal, torch.autograd.grad(y, [*inputs.values()], dy), expected))
