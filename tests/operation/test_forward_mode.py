"""Derivatives that are computed along with the output: `torch.func.jvp`, `jacfwd` and dual tensors."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from user_blocks import Block, copies, draw

import fused_resnet
from fused_resnet.functional import Direct, Norm, Projection, residual_tail


def by_jvp(block, x, tangent):
    return torch.func.jvp(block, (x,), (tangent,))


def by_dual_tensors(block, x, tangent):
    with forward_ad.dual_level():
        return tuple(forward_ad.unpack_dual(block(forward_ad.make_dual(x, tangent))))


def by_jacfwd(block, x, tangent):
    jacobian = torch.func.jacfwd(lambda t: block(x + t * tangent))(torch.zeros((), dtype=x.dtype))
    return block(x), jacobian


each_way = pytest.mark.parametrize("derive", [by_jvp, by_dual_tensors, by_jacfwd])


def make_frozen(block):
    return block.requires_grad_(False)


def without_running_statistics(block):
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            norm.track_running_stats = False


@each_way
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("prepare", [make_frozen, lambda block: block], ids=["frozen", "trainable"])
@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no gradients"])
def test_a_fused_block_has_the_derivatives_of_the_unfused_one(derive, training, prepare, gradients, backend):
    pair = [prepare(block).train(training) for block in copies(Block())]
    if training and derive is not by_dual_tensors:
        for block in pair:  # which torch.func does not let be updated
            without_running_statistics(block)
    fused_resnet.fuse(pair[0], strict=True)
    x, tangent = draw(), draw()
    with torch.set_grad_enabled(gradients):
        tested, expected = (derive(block, x, tangent) for block in pair)
    assert expected[1].abs().max() > 0
    torch.testing.assert_close(tuple(tested), tuple(expected))
    torch.testing.assert_close(pair[0].state_dict(), pair[1].state_dict())


@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no gradients"])
def test_dual_tensors_follow_ordinary_calls(gradients, backend):
    """The block remembers how ordinary calls are computed; a dual tensor is not one of these."""
    pair = copies(Block())
    fused_resnet.fuse(pair[0], strict=True)
    x, tangent = draw(), draw()
    with torch.set_grad_enabled(gradients):
        for block in pair:
            block(x)
        tested, expected = (by_dual_tensors(block, x, tangent) for block in pair)
    torch.testing.assert_close(tested, expected)


@pytest.mark.parametrize("operand", ["x", "weight", "gamma"])
def test_a_tail_has_derivatives_in_each_of_its_operands(operand, backend):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 3, 4, 4), "weight": (5, 3, 1, 1), "gamma": (5,), "z": (2, 5, 4, 4)}
    given = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}

    def tail(changed):
        of = {**given, operand: changed}
        norm = Norm(of["gamma"], None, None, None, None, 0.1, 1e-5, True)
        return residual_tail(Projection(of["x"], of["weight"], norm), Direct(of["z"]), activation=None)

    step = torch.ones_like(given[operand])
    _, tangent = torch.func.jvp(tail, (given[operand],), (step,))
    difference = (tail(given[operand] + 1e-5 * step) - tail(given[operand] - 1e-5 * step)) / 2e-5
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-7)
