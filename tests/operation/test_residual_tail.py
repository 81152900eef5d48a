"""`residual_tail` against the unfused modules, by the rule of `compare`: output, all gradients, running statistics."""

import compare
import pytest
import torch
from compare import assert_as_accurate_as_unfused, fused, unfused
from emulated import on_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import DTYPES, SAMPLES, Branch, Sample, build, large_samples, samples

from fused_resnet.strategy import use_strategy

each_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
each_strategy = pytest.mark.parametrize("strategy", ["moments", "library"])


@each_strategy
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_sample
def test_sample_is_as_accurate_as_the_unfused_modules(sample, dtype, strategy, device):
    with use_strategy(strategy):
        assert_as_accurate_as_unfused(*build(sample.with_dtype(dtype), device))


@given(samples(), st.sampled_from(["moments", "library", "auto"]), st.integers(0, 2), st.integers(0, 999))
def test_any_tail_is_as_accurate_as_the_unfused_modules(device, sample, strategy, cut, seed):
    torch.manual_seed(seed)
    with use_strategy(strategy):
        assert_as_accurate_as_unfused(*build(sample, device, cut))


@on_kernels
@settings(max_examples=20)
@given(large_samples(), st.sampled_from(["moments", "library"]), st.integers(0, 1), st.integers(0, 999))
def test_any_tail_of_several_tiles_is_as_accurate_as_the_unfused_modules(device, sample, strategy, cut, seed):
    torch.manual_seed(seed)
    with use_strategy(strategy):
        assert_as_accurate_as_unfused(*build(sample, device, cut))


def test_a_wrong_gradient_of_one_number_is_seen(monkeypatch, device):
    """The rule takes PyTorch's usual error for it; that excuses what rounding does, and no more."""
    sample = Sample(Branch("projection", "training", in_channels=1), None, None, (4, 1, 8, 4), torch.float16)
    case = build(sample, device)

    def wrong(*arguments):
        outcome = fused(*arguments)
        outcome.gradients["main.conv.weight"] += 1  # its terms are 20 in all, and cancel
        return outcome

    assert_as_accurate_as_unfused(*case)
    monkeypatch.setattr(compare, "fused", wrong)
    with pytest.raises(AssertionError, match=r"gradient of main\.conv\.weight: error"):
        assert_as_accurate_as_unfused(*case)


@each_strategy
@pytest.mark.parametrize("channels", [35, 65])
def test_odd_channels_at_a_large_resolution(channels, strategy, device):
    """apex issue 1768: channels-last statistics are wrong for C = 65; cudnn-frontend issue 133: C = 35 fails."""
    main = Branch("direct", "training", layout="channels_last")
    shortcut = Branch("projection", "training", in_channels=channels, layout="channels_last")
    with use_strategy(strategy):
        assert_as_accurate_as_unfused(*build(Sample(main, shortcut, shape=(2, channels, 64, 64)), device))


@on_kernels
def test_more_output_channels_than_wait_in_shared_memory(device):
    """Rows of the matrices for dx are made twice then, and one of ten shares of Q has no channels."""
    sample = Sample(Branch("projection", "training", in_channels=16), None, shape=(2, 2660, 3, 3))
    with use_strategy("moments"):
        assert_as_accurate_as_unfused(*build(sample, device))


@pytest.mark.slow
@each_strategy
def test_more_images_than_a_grid_dimension_holds(strategy, device):
    """pytorch issue 19911: a grid dimension above 65535."""
    sample = Sample(Branch("projection", "training", 3), Branch("zero_pad", in_channels=1), shape=(70_000, 2, 1, 1))
    with use_strategy(strategy):
        assert_as_accurate_as_unfused(*build(sample, device))


@each_strategy
@each_sample
def test_sum_of_the_output_can_be_differentiated(sample, strategy, device):
    """flash-attention issue 355, pytorch issue 1866: the expanded gradient of ``y.sum().backward()``."""
    tail, inputs, dy = build(sample, device)
    with use_strategy(strategy):
        expanded = fused(tail, inputs, torch.ones((), device=device).expand(dy.shape)).gradients
        dense = fused(tail, inputs, torch.ones_like(dy)).gradients
    for name, gradient in expanded.items():
        torch.testing.assert_close(gradient, dense[name], msg=name)


@each_strategy
@each_sample
def test_same_call_twice_gives_the_same_bits(sample, strategy, device):
    case = build(sample, device)
    with use_strategy(strategy):
        first, second = fused(*case), fused(*case)
    assert torch.equal(first.output, second.output)
    for kind in ("gradients", "buffers"):
        for name, tensor in getattr(first, kind).items():
            assert torch.equal(tensor, getattr(second, kind)[name]), name


@each_strategy
@each_sample
def test_no_input_is_written(sample, strategy, device):
    tail, inputs, dy = build(sample, device)
    read = {**inputs, **dict(tail.named_parameters()), "dy": dy}
    before = {name: (t._version, t.detach().clone()) for name, t in read.items()}
    with use_strategy(strategy):
        tail.fused(inputs).backward(dy)
    for name, tensor in read.items():
        version, value = before[name]
        assert tensor._version == version, name
        assert torch.equal(tensor, value), name


@each_strategy
@pytest.mark.parametrize("mode", ["training", "eval"])
def test_empty_batch(mode, strategy, device):
    """pytorch PR 46572: an empty batch leaves a sticky error."""
    sample = Sample(Branch("direct", mode), Branch("projection", mode, stride=2), shape=(0, 10, 4, 3))
    case = build(sample, device)
    with use_strategy(strategy):
        tested = fused(*case)
    expected = unfused(*case)
    assert tested.output.shape == (0, 10, 4, 3)
    for kind in ("gradients", "buffers"):
        for name, tensor in getattr(expected, kind).items():
            torch.testing.assert_close(getattr(tested, kind)[name], tensor, rtol=0, atol=0, msg=name)
    assert_as_accurate_as_unfused(*build(Sample(Branch("projection", mode), None), device))


@each_strategy
def test_parameters_may_be_misaligned_views_of_a_larger_buffer(strategy, device):
    """pytorch issues 195186, 193698: a parameter whose storage offset is odd."""
    sample = Sample(Branch("direct", "training"), Branch("projection", "eval", bias=True, stride=2))
    tail, inputs, dy = build(sample, device)
    for tensor in (*tail.parameters(), *tail.buffers(), *inputs.values()):
        buffer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=device)
        tensor.data = buffer[1:].view(tensor.shape).copy_(tensor.data)
        assert tensor.storage_offset() == 1
    with use_strategy(strategy):
        assert_as_accurate_as_unfused(tail, inputs, dy)


@pytest.mark.parametrize(("placement", "zeros"), [("end", [4, 5, 6]), ("both", [0, 5, 6])])
def test_odd_zero_channel_goes_to_the_end(placement, zeros, device):
    shortcut = Branch("zero_pad", in_channels=4, stride=2, placement=placement)
    tail, inputs, _ = build(Sample(Branch("direct"), shortcut, None, shape=(2, 7, 3, 3)), device)
    added = tail.fused({**inputs, "main.x": torch.zeros_like(inputs["main.x"])})
    assert [c for c in range(7) if not added[:, c].any()] == zeros
    kept = [c for c in range(7) if c not in zeros]
    assert torch.equal(added[:, kept], inputs["shortcut.x"][:, :, ::2, ::2])


@each_strategy
@each_sample
def test_call_that_records_nothing_agrees_with_one_that_does(sample, strategy, device):
    tail, inputs, _ = build(sample, device)
    with use_strategy(strategy):
        recorded = tail.fused(inputs)
        for silent in (torch.no_grad, torch.inference_mode):
            with silent():
                y = tail.fused(inputs)
            assert not y.requires_grad
            torch.testing.assert_close(y, recorded.detach())


def test_strategies_agree_on_a_random_tail(device):
    case = build(SAMPLES["bottleneck projection"], device)
    outcomes = []
    for strategy in ("moments", "library"):
        with use_strategy(strategy):
            outcomes.append(fused(*case))
    torch.testing.assert_close(outcomes[0].output, outcomes[1].output)
    assert not torch.equal(outcomes[0].output, outcomes[1].output), "both strategies ran the same computation"
