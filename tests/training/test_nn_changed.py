"""Blocks to which something was done: conversions, replaced, frozen and reparametrised children, autocast.

Whatever it was, the fused block does what the block with ``fused=False`` does.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm
from user_blocks import assert_trains_alike, copies

from fused_resnet.nn import (
    BasicBlock,
    Bottleneck,
    IdentityShortcut,
    PreActBottleneck,
    ProjectionShortcut,
    ZeroPadShortcut,
)

SHAPE = (4, 6, 6, 6)


def changed_alike(block, change):
    """A fused block and an unfused copy, in float64 and both changed in the same way."""
    fused, unfused = copies(block)
    unfused.fused = False
    for each in (fused, unfused):
        torch.manual_seed(1)
        change(each)
        each.double()
    return fused, unfused


def group_norm(block):
    block.bn3 = nn.GroupNorm(4, 16)


def group_norm_in_the_shortcut(block):
    block.downsample[1] = nn.GroupNorm(4, 16)


def no_norm_in_the_shortcut(block):
    block.downsample[1] = nn.Identity()


def other_activation(block):
    block.relu = nn.GELU()


def biased_convolution(block):
    block.downsample[0] = nn.Conv2d(6, 16, 1, stride=(2, 2), bias=True)


def wide_convolution(block):
    block.downsample[0] = nn.Conv2d(6, 16, 3, stride=2, padding=1)


def grouped_convolution(block):
    block.downsample[0] = nn.Conv2d(6, 16, 1, stride=2, groups=2)


def plain_sequential(block):
    block.downsample = nn.Sequential(*block.downsample)


def one_more_module_in_the_shortcut(block):
    block.downsample.append(nn.Tanh())


def one_module_ahead_in_the_shortcut(block):
    block.downsample.insert(0, nn.Tanh())


def one_module_less_in_the_shortcut(block):
    del block.downsample[1]


def norm_with_a_forward_of_its_own(block):
    block.bn3.forward = lambda z: nn.BatchNorm2d.forward(block.bn3, z).sin()


def shortcut_with_a_forward_of_its_own(block):
    block.downsample.forward = lambda z: nn.Sequential.forward(block.downsample, z).sin()


def subclassed_norm(block):
    class Doubled(nn.BatchNorm2d):
        def forward(self, z):
            return 2 * super().forward(z)

    block.bn3 = Doubled(16)


def subclassed_shortcut(block):
    class Halved(ProjectionShortcut):
        def forward(self, z):
            return super().forward(z) / 2

    block.downsample = Halved(6, 16, 2)


def norm_without_statistics_and_parameters(block):
    block.bn3 = nn.BatchNorm2d(16, track_running_stats=False, affine=False)


def norm_that_stops_tracking(block):
    block.bn3.track_running_stats = False


def cumulative_averages(block):
    block.bn3.momentum = block.downsample[1].momentum = None


def frozen_parts(block):
    block.conv3.requires_grad_(False)
    block.downsample.requires_grad_(False)


def norms_frozen_in_evaluation(block):
    for norm in (block.bn3, block.downsample[1]):
        norm.eval()
        norm.train = lambda mode=True, norm=norm: norm


def parametrised_weights(block):
    parametrizations.weight_norm(block.conv3)
    parametrizations.orthogonal(block.downsample[0])


def pruned_weights(block):
    prune.l1_unstructured(block.conv3, "weight", amount=0.5)
    prune.random_unstructured(block.downsample[0], "weight", amount=0.5)


def spectral_norm_by_a_hook(block):
    spectral_norm(block.conv3)


CHANGES = (
    group_norm,
    group_norm_in_the_shortcut,
    no_norm_in_the_shortcut,
    other_activation,
    biased_convolution,
    wide_convolution,
    grouped_convolution,
    plain_sequential,
    one_more_module_in_the_shortcut,
    one_module_ahead_in_the_shortcut,
    one_module_less_in_the_shortcut,
    norm_with_a_forward_of_its_own,
    shortcut_with_a_forward_of_its_own,
    subclassed_norm,
    subclassed_shortcut,
    norm_without_statistics_and_parameters,
    norm_that_stops_tracking,
    cumulative_averages,
    frozen_parts,
    norms_frozen_in_evaluation,
    parametrised_weights,
    pruned_weights,
    spectral_norm_by_a_hook,
)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_block_does_what_the_unfused_one_does(change):
    assert_trains_alike(*changed_alike(Bottleneck(6, 4, 2), change), SHAPE)


@pytest.mark.parametrize(
    "change", [biased_convolution, cumulative_averages, frozen_parts, norms_frozen_in_evaluation, parametrised_weights]
)
def test_change_that_leaves_a_standard_tail_leaves_it_fused(change, computed_tails):
    fused, _ = changed_alike(Bottleneck(6, 4, 2), change)
    fused(torch.randn(SHAPE, dtype=torch.double))
    assert len(computed_tails) == 1


def test_shortcuts_without_parameters_may_be_subclassed():
    class Halved(IdentityShortcut):
        def forward(self, z):
            return z / 2

    class Shifted(ZeroPadShortcut):
        def forward(self, z):
            return super().forward(z) + 1

    for block, shortcut in ((BasicBlock(6, 6), Halved()), (BasicBlock(6, 8, 2), Shifted(8, 2))):
        block.downsample = shortcut
        assert_trains_alike(*changed_alike(block, lambda block: None), SHAPE)


def test_parametrised_weight_gets_its_gradient():
    block = Bottleneck(6, 4, 2)
    parametrizations.weight_norm(block.conv3)
    block(torch.randn(SHAPE)).square().sum().backward()
    assert parametrize.is_parametrized(block.conv3)
    gradients = [p.grad for p in block.conv3.parametrizations.parameters()]
    assert len(gradients) == 2
    assert all(g.any() for g in gradients)


def test_synchronized_batch_norm_survives_conversion():
    """timm issue 1254, pytorch issue 187298: synchronized batch norm is silently lost in conversion."""
    fused, unfused = changed_alike(Bottleneck(6, 4, 2), lambda block: None)
    fused, unfused = (nn.SyncBatchNorm.convert_sync_batchnorm(block).eval() for block in (fused, unfused))
    x = torch.randn(SHAPE, dtype=torch.double)
    torch.testing.assert_close(fused(x), unfused(x))
    called = []
    for norm in (fused.bn3, fused.downsample[1]):
        assert isinstance(norm, nn.SyncBatchNorm)
        norm.register_forward_pre_hook(lambda norm, args: called.append(norm))
    fused(x)
    assert called == [fused.bn3, fused.downsample[1]]


@pytest.mark.parametrize("option", ["B", "D", "A", "none"])
@pytest.mark.parametrize("make", [BasicBlock, Bottleneck, PreActBottleneck])
@pytest.mark.parametrize("same_shape", [True, False])
def test_autocast_works_wherever_the_unfused_block_does(make, option, same_shape):
    """A float32 identity may meet a bfloat16 main branch."""
    channels = 6 * make.expansion if same_shape else 4
    fused = make(channels, 6, 1 if same_shape else 2, shortcut=option)
    unfused = copy.deepcopy(fused)
    unfused.fused = False
    x = torch.randn(4, channels, 6, 6)
    gradients = []
    outputs = []
    for block in (fused, unfused):
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(block(x))
        outputs[-1].float().square().mean().backward()
        gradients.append({n: p.grad for n, p in block.named_parameters()})
    assert outputs[0].dtype == outputs[1].dtype
    close = partial(torch.testing.assert_close, rtol=0.05, atol=0.05)
    close(*outputs)
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).norm() <= 0.05 * gradient.norm() + 1e-3, name
    close(dict(fused.named_buffers()), dict(unfused.named_buffers()))


def test_one_value_a_channel_raises_as_unfused():
    fused, unfused = changed_alike(Bottleneck(6, 4, 2), lambda block: None)
    x = torch.randn(1, 6, 2, 2, dtype=torch.double)
    for block in (fused, unfused):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            block(x)
    torch.testing.assert_close(dict(fused.named_buffers()), dict(unfused.named_buffers()))
