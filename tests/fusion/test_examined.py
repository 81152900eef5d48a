"""What changes in a block that has been called is seen at its next call."""

import pytest
import torch
from torch import nn

import fused_resnet
from fused_resnet.fusion.block import refusal
from fused_resnet.nn import Bottleneck


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.scale, self.parts, self.unread = 1.5, ["a"], ["a"]

    def forward(self, x):
        return self.relu(self.norm(self.conv(x)) + (self.downsample(x) if self.parts else x))


class SubConv(nn.Conv2d):
    pass


def note(*_):
    return None


def patch(monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, lambda self, *args, **kwargs: args[0], raising=False)


# Each is done to a block, and makes it run unfused.
CHANGES = {
    "a hook on a part of a tail": lambda block, _: block.norm.register_forward_hook(note),
    "a backward hook": lambda block, _: block.conv.register_full_backward_hook(note),
    "a hook on a module that is passed by": lambda block, _: block.downsample.register_forward_pre_hook(note),
    "a hook for all modules": lambda _, hooks: hooks.append(nn.modules.module.register_module_forward_hook(note)),
    "a forward of its own": lambda block, _: setattr(block.conv, "forward", lambda x: x),
    "a convolution of its own": lambda block, _: setattr(block.conv, "_conv_forward", lambda *a: a[0]),
    "another kind of norm": lambda block, _: setattr(block, "norm", nn.InstanceNorm2d(8)),
    "another kind of child": lambda block, _: setattr(block, "relu", nn.GELU()),
    "a relu that keeps its input": lambda block, _: setattr(block.relu, "inplace", False),
    "an attribute": lambda block, _: setattr(block, "scale", 2),
    "an attribute less": lambda block, _: delattr(block, "scale"),
    "an attribute of another name": lambda block, _: (delattr(block, "parts"), setattr(block, "others", ["a"])),
    "the contents of a list": lambda block, _: block.parts.append("b"),
    "a child more": lambda block, _: block.downsample.append(nn.Identity()),
    "a parameter of its own": lambda block, _: block.register_parameter("gain", nn.Parameter(torch.ones(1))),
    "another geometry": lambda block, _: setattr(block.conv, "padding", (1, 1)),
    "another class": lambda block, _: setattr(block.norm, "__class__", nn.LocalResponseNorm),
}


@pytest.fixture
def called():
    block = Block()
    fused_resnet.fuse(block)
    x = torch.randn(2, 8, 3, 3)
    for _ in range(2):
        block(x)
    assert refusal(block, (x,), {}) is None
    hooks = []
    yield block, x, hooks
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change, called):
    block, x, hooks = called
    CHANGES[change](block, hooks)
    assert refusal(block, (x,), {}) is not None


@pytest.mark.parametrize("owner", [Block, nn.Sequential])
def test_another_forward_of_a_class_is_seen(owner, called, monkeypatch):
    block, x, _ = called
    patch(monkeypatch, owner, "forward")
    assert refusal(block, (x,), {}) is not None
    monkeypatch.undo()
    assert refusal(block, (x,), {}) is None


def test_a_method_that_a_class_of_a_users_gets_is_seen(monkeypatch):
    block = Block()
    block.conv = SubConv(8, 8, 1)
    fused_resnet.fuse(block)
    x = torch.randn(2, 8, 3, 3)
    block(x)
    assert refusal(block, (x,), {}) is None
    patch(monkeypatch, SubConv, "_conv_forward")
    assert "_conv_forward" in refusal(block, (x,), {})


SAME = {
    "evaluation": lambda block: block.eval(),
    "another child of the kind": lambda block: setattr(block, "norm", nn.BatchNorm2d(8)),
    "an equal value": lambda block: setattr(block, "scale", float("1.5")),
    "the contents of a list that no forward reads": lambda block: block.unread.append("b"),
    "an attribute more, which no forward has read": lambda block: setattr(block, "more", 2),
    "another weight": lambda block: setattr(block.conv, "weight", nn.Parameter(torch.randn(8, 8, 1, 1))),
    "a hook on the block": lambda block: block.register_forward_hook(note),
}


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_matter_leaves_it_fused_and_is_computed(change, called):
    block, x, _ = called
    SAME[change](block)
    for _ in range(2):
        assert refusal(block, (x,), {}) is None
    unfused = fused_resnet.unfuse(block).eval()(x)
    fused_resnet.fuse(block)
    torch.testing.assert_close(block(x), unfused, rtol=1e-3, atol=1e-4)


def test_a_hook_that_is_removed_lets_it_be_fused_again(called):
    block, x, _ = called
    hook = block.norm.register_forward_hook(note)
    assert "hooks" in refusal(block, (x,), {})
    hook.remove()
    assert refusal(block, (x,), {}) is None


def test_own_blocks_see_changes_too():
    block, x = Bottleneck(32, 8, 2), torch.randn(2, 32, 4, 4)
    for _ in range(2):
        block(x)
    assert block.refusal() is None
    hook = block.downsample[1].register_forward_hook(note)
    assert "hooks" in block.refusal()
    hook.remove()
    assert block.refusal() is None
    block.downsample.append(nn.Identity())
    assert block.refusal() is not None
