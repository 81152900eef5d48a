"""`fuse` and `unfuse` as functions: what they take, return, change and undo."""

import copy
from abc import ABC, abstractmethod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from user_blocks import WHOLE_TAIL, Block, assert_trains_alike, copies

import fused_resnet
from fused_resnet import models


class Net(nn.Module):
    """Two blocks and a head; the second block's norm cannot be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block(8, 8, 1)
        self.second.bn2 = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


FUSED = {"first": WHOLE_TAIL, "second": "identity + downsample.0 + downsample.1 + relu"}
REFUSED = {"second.bn2": "GroupNorm is not a BatchNorm2d"}


def test_the_report_says_what_was_fused_and_what_was_not():
    report = fused_resnet.fuse(Net())
    assert report.fused == FUSED
    assert report.refused == REFUSED
    assert str(report).splitlines() == [
        f"fused    first       {FUSED['first']}",
        f"fused    second      {FUSED['second']}",
        f"refused  second.bn2  {REFUSED['second.bn2']}",
        "left: first.bn1 and 1 more: no addition follows: fuse(model, norms=True) takes it by itself",
    ]


def test_a_model_without_tails_says_so():
    assert str(fused_resnet.fuse(nn.Linear(2, 2))) == "no residual tails found"


def test_a_block_by_itself_is_reported_as_the_model():
    assert str(fused_resnet.fuse(Block())).splitlines()[0] == f"fused  (the model itself)  {WHOLE_TAIL}"


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"model is a type, expected a torch\.nn\.Module"):
        fused_resnet.fuse(Block)
    with pytest.raises(TypeError, match="model is a NoneType"):
        fused_resnet.unfuse(None)
    with pytest.raises(TypeError, match="filter is a str, expected a function"):
        fused_resnet.fuse(Block(), filter="layer1")


def test_strict_raises_and_changes_nothing():
    net = Net()
    with pytest.raises(RuntimeError, match=r"second\.bn2 +GroupNorm is not a BatchNorm2d"):
        fused_resnet.fuse(net, strict=True)
    assert type(net.first) is Block


def test_dry_run_reports_and_changes_nothing(computed_tails):
    net = Net()
    assert fused_resnet.fuse(net, dry_run=True).fused == FUSED
    assert type(net.first) is Block
    net(torch.randn(4, 6, 8, 8))
    assert not computed_tails


def test_filter_chooses_blocks_by_name_and_module(computed_tails):
    net = Net()
    report = fused_resnet.fuse(net, filter=lambda name, module: name == "first" and isinstance(module, Block))
    assert report.fused.keys() == {"first"}
    assert not report.refused
    net(torch.randn(4, 6, 8, 8))
    assert len(computed_tails) == 1


def test_fuse_is_idempotent(computed_tails):
    net, original = copies(Net())
    first = fused_resnet.fuse(net)
    second = fused_resnet.fuse(net)
    assert (first.fused, first.refused) == (second.fused, second.refused)
    assert_trains_alike(net, original)
    assert len(computed_tails) == 6


def test_fusing_again_brings_a_changed_block_up_to_date():
    net, original = copies(Net())
    fused_resnet.fuse(net)
    for model in (net, original):
        model.second.bn2 = nn.BatchNorm2d(8).double()
        model.first.bn2 = nn.Identity()
    report = fused_resnet.fuse(net, strict=True)
    assert report.fused == {"first": "conv2 + downsample.0 + downsample.1 + relu", "second": WHOLE_TAIL}
    assert_trains_alike(net, original)


def test_a_block_with_nothing_left_to_fuse_is_restored():
    class Plain(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.branches(x)[0] + self.branches(x)[1]) if self.residual else x

        residual, act = True, staticmethod(torch.relu)

    block = Plain()
    assert fused_resnet.fuse(block).fused
    block.residual = False
    assert not fused_resnet.fuse(block).fused
    assert type(block) is Plain


def test_unfuse_gives_back_the_original():
    net, original = copies(Net())
    text = repr(net)
    fused_resnet.fuse(net)
    assert fused_resnet.unfuse(net) is net
    assert repr(net) == text
    assert [type(module) for module in net.modules()] == [type(module) for module in original.modules()]
    assert [vars(module).keys() for module in net.modules()] == [vars(module).keys() for module in original.modules()]
    x = torch.randn(4, 6, 8, 8, dtype=torch.float64)
    assert torch.equal(net(x), original(x))


def test_only_the_given_instance_is_fused():
    """Patching a class would leak into other models (Liger-Kernel issues 242 and 772)."""
    net, other = Net(), Net()
    forward = Block.forward
    fused_resnet.fuse(net)
    assert type(other.first) is Block
    assert Block.forward is forward
    assert isinstance(net.first, Block)
    assert type(net.first).__name__ == "Block"


def test_a_block_used_twice_in_a_model_is_fused_once():
    block = Block(8, 8, 1)
    net, original = copies(nn.Sequential(block, block))
    assert fused_resnet.fuse(net).fused == {"0": WHOLE_TAIL}
    assert_trains_alike(net, original, (4, 8, 6, 6))


def test_optimizers_made_before_fuse_go_on():
    net, original = copies(Net())
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (net, original)]
    fused_resnet.fuse(net)
    for _ in range(2):
        x = torch.randn(4, 6, 8, 8, dtype=torch.float64)
        for model, optimizer in zip((net, original), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(net.state_dict(), original.state_dict())


def test_a_block_wrapped_after_fuse_refuses_to_be_restored():
    block = Block()
    fused_resnet.fuse(block)
    block.__class__ = type("Wrapped", (type(block),), {})
    with pytest.raises(RuntimeError, match="another class since it was fused"):
        fused_resnet.unfuse(block)


def test_classes_learn_nothing_of_the_class_that_a_fused_block_has():
    """They may register those that inherit from them, ask something of them, or want none."""
    made = []

    class Registers(type):
        def __init__(cls, *arguments: Any, **_: Any) -> None:
            super().__init__(*arguments)
            made.append(cls)

    class Registered(Block, metaclass=Registers):
        def __init_subclass__(cls, *, name: str) -> None:
            made.append(name)

    class Named(Registered, name="named"):
        pass

    del made[:]
    block, original = copies(Named())
    assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL}
    assert not made
    assert isinstance(block, Named)
    assert type(type(block)) is Registers
    assert_trains_alike(block, original)


def test_a_block_of_an_abstract_class_is_fused():
    class Abstract(Block, ABC):
        @abstractmethod
        def name(self) -> str: ...

    class Concrete(Abstract):
        def name(self) -> str:
            return "concrete"

    block, original = copies(Concrete())
    assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL}
    assert isinstance(block, Abstract)
    assert not isinstance(original, type(block))
    assert_trains_alike(block, original)


def test_a_block_within_a_block_is_fused_and_so_is_the_block_around_it(computed_tails):
    class Around(Block):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.inner(x))

    block, original = copies(Around())
    assert fused_resnet.fuse(block).fused == {"inner": WHOLE_TAIL, "": WHOLE_TAIL}
    assert_trains_alike(block, original)
    assert len(computed_tails) == 6


class TestOwnBlocks:
    """This package's own blocks are fused as they are built, and switched in place."""

    def test_they_are_reported(self):
        model = models.resnet18()
        report = fused_resnet.fuse(model)
        assert set(report.fused.values()) == {"bn2 + downsample + relu"}
        assert len(report.fused) == 8

    def test_fuse_and_unfuse_switch_them(self, computed_tails):
        model = models.cifar_resnet(8, fused=False)
        fused_resnet.fuse(model)
        model(torch.randn(2, 3, 8, 8))
        assert len(computed_tails) == 3
        fused_resnet.unfuse(model)
        model(torch.randn(2, 3, 8, 8))
        assert len(computed_tails) == 3

    def test_what_stands_against_it_is_reported(self):
        model = models.cifar_resnet(8, fused=False)
        model.layer1[0].bn2.register_forward_hook(lambda *_: None)
        before = copy.deepcopy(model.state_dict())
        report = fused_resnet.fuse(model)
        assert report.refused == {"layer1.0.bn2": "BatchNorm2d has hooks"}
        torch.testing.assert_close(model.state_dict(), before)

    def test_a_user_block_around_them_keeps_them(self, computed_tails):
        class Around(Block):
            def __init__(self) -> None:
                super().__init__()
                self.inner = fused_resnet.nn.BasicBlock(6, 6)

            def forward(self, x: Tensor) -> Tensor:
                return super().forward(self.inner(x))

        block, original = copies(Around())
        fused_resnet.unfuse(original)
        assert fused_resnet.fuse(block).fused == {"inner": "bn2 + downsample + relu", "": WHOLE_TAIL}
        assert_trains_alike(block, original)
        assert len(computed_tails) == 6
