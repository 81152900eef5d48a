"""Transforms of `torch.func` over fused models: the standard operations, which they can take apart."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, vjp, vmap
from user_blocks import SHAPE, Block, copies, draw

import fused_resnet


@pytest.fixture
def pair(backend):
    """In training, by statistics of the batch: `torch.func` does not let running ones be updated."""
    block = Block()
    for norm in (block.bn1, block.bn2, block.downsample[1]):
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False
    block, original = copies(block)
    fused_resnet.fuse(block, norms=True, strict=True)
    return block, original


def parameters(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def loss_of(model, x):
    return lambda values: functional_call(model, values, (x,)).square().mean()


def test_gradients_of_parameters(pair, computed_tails):
    x = draw()
    found, expected = (grad(loss_of(model, x))(parameters(model)) for model in pair)
    torch.testing.assert_close(found, expected)
    assert computed_tails


@pytest.mark.parametrize("derive", [grad, jacrev, hessian], ids=lambda derive: derive.__name__)
def test_derivatives_in_the_input(derive, pair):
    direction, x = draw(), draw()

    def along(model):
        return lambda t: model(x + t * direction).square().mean()

    t = torch.zeros((), dtype=x.dtype)
    found, expected = (derive(along(model))(t) for model in pair)
    assert expected.abs() > 0
    torch.testing.assert_close(found, expected)


def test_products_with_vectors(pair):
    x = draw()
    found, expected = ((result := vjp(model, x))[1](result[0]) for model in pair)
    torch.testing.assert_close(found, expected)


def test_gradients_of_each_sample(pair):
    """As differential privacy takes them, in evaluation."""
    x = draw()

    def of_one(model):
        def loss(values, image):
            return functional_call(model, values, (image[None],)).square().mean()

        return vmap(grad(loss), (None, 0))(parameters(model), x)

    found, expected = (of_one(model) for model in pair)
    torch.testing.assert_close(found, expected)


def test_a_batch_of_batches(pair):
    x = draw(3, *SHAPE)
    found, expected = (vmap(model)(x) for model in pair)
    torch.testing.assert_close(found, expected)


def test_ordinary_calls_are_fused_before_and_after(pair, computed_tails):
    x = draw()
    for _ in range(2):
        pair[0](x).sum().backward()
        grad(loss_of(pair[0], x))(parameters(pair[0]))
    torch.testing.assert_close(pair[0](x), pair[1](x))
