"""Hooks on what a fused tail swallows: they fire as in the unfused block, and what they change counts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules import module as for_all_modules
from user_blocks import assert_trains_alike, copies

from fused_resnet.nn import Bottleneck

CHILDREN = ("conv3", "bn3", "relu", "downsample", "downsample.0", "downsample.1")


@pytest.fixture
def pair():
    """A fused block and an unfused copy. PyTorch allows no full backward hook ahead of an operation in place."""
    fused, unfused = copies(Bottleneck(6, 4, 2))
    fused.relu.inplace = unfused.relu.inplace = unfused.fused = False
    return fused, unfused


@pytest.fixture
def x():
    return torch.randn(4, 6, 6, 6, dtype=torch.double, requires_grad=True)


def names_of_modules(calls):
    """A hook of any kind that records whose it is."""
    return lambda module, *_: calls.append(type(module).__name__)


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("child", CHILDREN)
def test_hook_on_a_child_fires_as_in_the_unfused_block(child, kind, pair, x):
    """torchvision: a shared module (one relu used thrice) and its hooks; a hook on a module that the tail swallows."""
    calls = [], []
    for block, own in zip(pair, calls, strict=True):
        getattr(block.get_submodule(child), f"register_{kind}_hook")(names_of_modules(own))
        block(x).sum().backward()
    assert calls[0] == calls[1]
    assert len(calls[0]) == (3 if child == "relu" else 1)


@pytest.mark.parametrize("child", CHILDREN)
def test_hook_that_changes_an_output_takes_effect(child, pair, x):
    unhooked = copy.deepcopy(pair[0])
    for block in pair:
        block.get_submodule(child).register_forward_hook(lambda module, args, output: output.sin())
    assert not torch.allclose(copy.deepcopy(pair[0])(x), unhooked(x))
    assert_trains_alike(*pair, tuple(x.shape))


@pytest.mark.parametrize("child", ["avgpool", "conv", "norm"])
def test_hook_within_an_average_pooled_shortcut(child, x):
    at = ("avgpool", "conv", "norm").index(child)
    fused, unfused = copies(Bottleneck(6, 4, 2, shortcut="D"))
    unfused.fused = False
    calls = [], []
    for block, own in zip((fused, unfused), calls, strict=True):
        block.downsample[at].register_forward_hook(names_of_modules(own))
    assert_trains_alike(fused, unfused, tuple(x.shape))
    assert calls[0] == calls[1] != []


def test_block_is_fused_again_once_the_hook_is_gone(pair, x, computed_tails):
    calls = []
    handle = pair[0].conv3.register_forward_hook(names_of_modules(calls))
    pair[0](x)
    assert (len(calls), len(computed_tails)) == (1, 0)
    handle.remove()
    pair[0](x)
    assert (len(calls), len(computed_tails)) == (1, 1)


@pytest.mark.parametrize(
    "register",
    [
        for_all_modules.register_module_forward_hook,
        for_all_modules.register_module_forward_pre_hook,
        for_all_modules.register_module_full_backward_hook,
        for_all_modules.register_module_full_backward_pre_hook,
    ],
)
def test_hook_for_all_modules_fires_as_in_the_unfused_block(register, pair, x):
    calls = [], []
    for block, own in zip(pair, calls, strict=True):
        handle = register(names_of_modules(own))
        try:
            block(x).sum().backward()
        finally:
            handle.remove()
    assert calls[0] == calls[1]
    assert {"Conv2d", "BatchNorm2d", "ReLU", "ProjectionShortcut"} <= set(calls[0])


def test_hook_on_the_block_itself_leaves_it_fused(pair, x, computed_tails):
    calls = []
    pair[0].register_forward_hook(names_of_modules(calls))
    pair[0](x)
    assert calls == ["Bottleneck"]
    assert len(computed_tails) == 1


def test_replacing_a_module_by_a_hooked_one_counts(pair, x):
    calls = []
    pair[0].bn3 = nn.BatchNorm2d(16).double()
    pair[0].bn3.register_forward_hook(names_of_modules(calls))
    pair[0](x)
    assert calls == ["BatchNorm2d"]
