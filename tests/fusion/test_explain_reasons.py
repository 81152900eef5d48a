"""`explain` tells why a tail is not fused, or not computed by the kernels."""

import pytest
import torch
from emulated import only_emulated
from explained import fused_block
from torch import Tensor, nn
from user_blocks import SHAPE, Block

import fused_resnet
from benchmarks.emulator import recorded_launches
from fused_resnet import explain
from fused_resnet.explanation import TailExplanation
from fused_resnet.functional import Direct, Norm, residual_tail
from fused_resnet.nn import Bottleneck

NOT_FLOAT64 = "torch.float64 is computed by plain PyTorch"


def hooked(block):
    block.bn2.register_forward_hook(lambda *_: None)


def exchanged(block):
    block.bn2 = nn.GroupNorm(2, 8)


def attribute(block):
    block.extra = 1
    fused_resnet.fuse(block)
    block.extra = 2


def child_of_another_kind(block):
    block.downsample[0] = nn.Conv2d(6, 8, 3, 2, padding=1)


CHANGES = {
    hooked: "bn2: BatchNorm2d has hooks",
    exchanged: "Block has changed: its children",
    attribute: "Block has changed: extra",
    child_of_another_kind: "downsample.0: 3x3 convolution",
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.items(), ids=[change.__name__ for change in CHANGES])
def test_changed_block_tells_why_it_runs_unfused(change, reason, computed_by):
    block, x = fused_block().eval(), torch.randn(SHAPE)
    change(block)
    assert explain(nn.Sequential(block), x).tails == [TailExplanation("0", reason)]
    block(x)
    assert not computed_by


def test_hooks_for_all_modules_are_told():
    block = fused_block()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        (tail,) = explain(block, torch.randn(SHAPE)).tails
    finally:
        handle.remove()
    assert tail.reason == "hooks are registered for all modules of the process"
    assert explain(block, torch.randn(SHAPE)).tails[0].reason is None


def test_another_instance_of_a_fused_class_is_told():
    (tail,) = explain(type(fused_block())(), torch.randn(SHAPE)).tails
    assert tail.reason == "fuse was called on another instance"


def test_calls_that_were_not_traced_are_told():
    class Scaled(Block):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return super().forward(x) * scale

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Scaled()

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.block(x), self.block(x, 2.0), self.block(x, scale=2.0)]

    model = Calls()
    fused_resnet.fuse(model)
    reasons = [tail.reason for tail in explain(model, torch.randn(SHAPE)).tails]
    assert reasons == [
        None,
        "it is called with 2 arguments, and was traced with 1",
        "it is called with keyword arguments",
    ]


def test_own_block_tells_why_it_runs_unfused():
    block, x = Bottleneck(6, 4, 2), torch.randn(SHAPE)
    block.bn3.register_forward_hook(lambda *_: None)
    assert explain(block, x).tails == [TailExplanation("", "bn3: BatchNorm2d has hooks")]
    fused_resnet.unfuse(block)
    assert explain(block, x).tails == [TailExplanation("", "fused is False")]


def test_unfused_model_is_told_what_fuse_would_do():
    model = nn.Sequential(Block(), nn.ReLU())
    explanation = explain(model, torch.randn(SHAPE))
    assert explanation.note == "not fused: call fused_resnet.fuse(model)"
    assert explanation.tails == [
        TailExplanation("0", "fuse would take conv2 + bn2 + downsample.0 + downsample.1 + relu")
    ]
    assert type(model[0]) is Block
    model[0].bn2.register_forward_hook(lambda *_: None)
    reasons = {tail.block: tail.reason for tail in explain(model, torch.randn(SHAPE)).tails}
    assert reasons["0.bn2"] == "fuse would leave it: BatchNorm2d has hooks"


def test_model_without_tails_has_nothing_to_tell():
    assert explain(nn.Linear(3, 3), torch.randn(2, 3)).tails == []


@only_emulated
def test_kernels_tell_what_they_do_not_take(backend):
    block = fused_block().double()
    (tail,) = explain(block, torch.randn(SHAPE).double()).tails
    assert (tail.backend, tail.forward.kernel, tail.reason) == ("reference", "plain PyTorch", NOT_FLOAT64)
    assert tail.backward.kernel == "plain PyTorch"


@only_emulated
def test_norms_that_share_their_buffers_are_told(backend):
    """Their backward updates nothing, and is the kernels'."""
    block = fused_block()
    block.downsample[1].running_mean = block.bn2.running_mean
    (tail,) = explain(block, torch.randn(SHAPE)).tails
    assert tail.reason == "both norms update the same running statistics"
    assert (tail.forward.kernel, tail.backward.kernel) == ("plain PyTorch", "backward<1>")
    with recorded_launches() as launches:
        block(torch.randn(SHAPE)).sum().backward()
    assert [launch.kernel for launch in launches] == ["backward"]


def test_empty_batch_is_told():
    (tail,) = explain(fused_block().eval(), torch.randn(0, 6, 8, 8)).tails
    assert (tail.block, tail.reason, tail.forward) == ("", "the batch is empty", None)


def test_plain_addition_is_told():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x) + x)

    block = Plain()
    assert fused_resnet.fuse(block).fused
    (tail,) = explain(block, torch.randn(SHAPE)).tails
    assert tail.reason == "a plain addition is left to autograd"
    with torch.no_grad():
        (tail,) = explain(block, torch.randn(SHAPE)).tails
    assert tail.reason is None


def test_operands_that_are_refused_are_told():
    class Broadcasting(Block):
        def forward(self, x: Tensor) -> Tensor:
            out, shortcut = self.branches(x)
            return self.relu(out + shortcut.mean((2, 3), keepdim=True))

    block = Broadcasting()
    fused_resnet.fuse(block)
    (tail,) = explain(block, torch.randn(SHAPE)).tails
    assert (tail.block, tail.forward) == ("", None)
    assert tail.reason.startswith("shortcut gives shape (4, 8, 1, 1), expected main's (4, 8, 4, 4)")


def test_tails_outside_of_blocks_are_told():
    class Direct1(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return residual_tail(Direct(a, Norm()), Direct(b))

    explanation = explain(Direct1(), torch.randn(SHAPE), torch.randn(SHAPE))
    assert [tail.block for tail in explanation.tails] == [None]
    assert "(outside of a block)" in str(explanation)
