"""``torch.func.functional_call`` on a fused network: the parameters that it is given are used and get the gradients."""

import pytest
import torch
import torch.nn.functional as F
from small_nets import TAILS, assert_close
from torch.func import functional_call


def drawn_like(model, names):
    """New values for the named parameters and buffers, ready for gradients where they are floating-point parameters."""
    generator = torch.Generator().manual_seed(3)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    trained = dict(model.named_parameters())
    given = {}
    for name in names:
        noise = torch.rand(state[name].shape, generator=generator, dtype=torch.float64) + 0.1
        given[name] = noise.to(state[name]).requires_grad_(name in trained)
    return given


def called(nets, model, given, **options):
    images, labels = nets.batch()
    return F.cross_entropy(functional_call(model, given, (images,), **options), labels)


def tail_parameters(model):
    """Everything that belongs to norms and convolutions, those that a tail swallows among them."""
    return [name for name, _ in model.named_parameters() if not name.startswith("fc")]


def assert_given_trained_and_own_left_alone(nets, names, **options):
    """The losses of both agree, so do the gradients of what was given, and the networks' own values stay."""
    losses, gradients = [], []
    for model in nets.both:
        before = {name: value.clone() for name, value in model.named_parameters()}
        given = drawn_like(model, names)
        loss = called(nets, model, given, **options)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: value.grad for name, value in given.items() if value.requires_grad})
        for name, value in model.named_parameters():
            assert torch.equal(value, before[name]), name
            if name in given:
                assert value.grad is None, name
    assert_close("loss", *losses, nets.tolerance)
    for name, gradient in gradients[1].items():
        assert gradient.any(), name
        assert_close(name, gradients[0][name], gradient, nets.tolerance)


@pytest.mark.parametrize("part", ["all", "every second"])
def test_gradients_reach_the_parameters_that_are_given(nets, part, computed_tails):
    names = tail_parameters(nets.fused)[:: 1 if part == "all" else 2]
    assert_given_trained_and_own_left_alone(nets, names)
    nets.assert_alike()
    assert len(computed_tails) == TAILS


def test_parameters_that_are_tied_are_given_together(nets):
    """Both norms of a tail share a weight, which is given under one of its names."""
    for model in nets.both:
        block = (model.blocks if hasattr(model, "blocks") else model.layer1)[0]
        block.downsample[1].weight = block.bn2.weight if hasattr(model, "blocks") else block.bn3.weight
    names = [name for name in tail_parameters(nets.fused) if name.endswith(("bn2.weight", "bn3.weight"))]
    assert_given_trained_and_own_left_alone(nets, names, tie_weights=True)


def test_running_statistics_that_are_given_are_the_ones_that_move(nets):
    given = []
    for model in nets.both:
        own = {name: buffer.clone() for name, buffer in model.named_buffers()}
        given.append({name: buffer.clone() for name, buffer in own.items()})
        called(nets, model, given[-1])
        assert all(buffer.equal(own[name]) for name, buffer in model.named_buffers())
    for name, buffer in given[1].items():
        assert_close(name, given[0][name], buffer, nets.tolerance)
        assert not name.endswith("num_batches_tracked") or buffer == 1


def test_of_an_unknown_name_it_says_so_as_for_the_unfused_network(nets):
    for model in nets.both:
        with pytest.raises(Exception, match="no_such_parameter"):
            called(nets, model, {"no_such_parameter": torch.ones(1)}, strict=True)
