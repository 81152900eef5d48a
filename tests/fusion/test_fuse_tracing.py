"""Tracing leaves no mark on a block; what a graph cannot show is refused."""

import copy
import random
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from user_blocks import SHAPE, WHOLE_TAIL, Block, WithSomethingBetween, assert_trains_alike, copies, draw

import fused_resnet

SOME = draw()


class TestTracing:
    def test_fuse_changes_no_state(self):
        block = Block()
        block.bn1.eval()
        before = copy.deepcopy(block.state_dict())
        modes = [module.training for module in block.modules()]
        random_state = torch.get_rng_state()
        fused_resnet.fuse(block)
        torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)
        assert [module.training for module in block.modules()] == modes
        assert torch.equal(torch.get_rng_state(), random_state)
        assert "training" not in vars(nn.Module)

    def refused(self, block: nn.Module) -> str:
        block, original = copies(block)
        before = {name: copy.copy(value) for name, value in vars(block).items()}
        report = fused_resnet.fuse(block)
        assert not report.fused
        after = {name: copy.copy(value) for name, value in vars(block).items()}
        assert before.keys() == after.keys()
        assert_trains_alike(block, original)
        return report.refused[""]

    def test_a_forward_that_differs_in_evaluation(self):
        class Differs(Block):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) if self.training else self.downsample(x)

        assert "training and evaluation" in self.refused(Differs())

    def test_a_forward_with_dropout_of_its_own_is_the_same_graph_but_for_its_mode(self):
        class Dropout(Block):
            def forward(self, x: Tensor) -> Tensor:
                out, shortcut = self.branches(x)
                return self.relu(F.dropout(out, 0.0, self.training) + shortcut)

        assert "training and evaluation" in self.refused(Dropout())

    def test_a_forward_that_counts_its_calls(self):
        class Counts(Block):
            def __init__(self) -> None:
                super().__init__()
                self.calls = 0

            def forward(self, x: Tensor) -> Tensor:
                self.calls += 1
                return super().forward(x)

        assert "writes to Counts.calls" in self.refused(Counts())

    def test_a_forward_that_appends_to_a_list(self):
        class Records(Block):
            def __init__(self) -> None:
                super().__init__()
                self.seen = []

            def forward(self, x: Tensor) -> Tensor:
                self.seen.append(1)
                return super().forward(x)

        block = Records()
        seen = block.seen
        assert "writes to Records.seen" in self.refused(block)
        assert block.seen is seen

    def test_a_forward_that_updates_a_buffer_keeps_updating_it(self):
        class Counter(Block):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("count", torch.zeros((), dtype=torch.long))

            def forward(self, x: Tensor) -> Tensor:
                self.count.add_(1)
                return super().forward(x)

        block, original = copies(Counter())
        assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL}
        assert block.count == 0
        assert_trains_alike(block, original)
        assert block.count == 3

    @pytest.mark.parametrize(
        "draw_one",
        [lambda: float(torch.rand(())), random.random, np.random.rand],
        ids=["torch", "python", "numpy"],
    )
    def test_a_forward_that_draws_random_numbers(self, draw_one):
        class Random(Block):
            def forward(self, x: Tensor) -> Tensor:
                return x if draw_one() > 2 else super().forward(x)

        block = Random()
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        assert "random numbers" in fused_resnet.fuse(block).refused[""]
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
        assert (np.random.get_state()[1] == states[2]).all()

    def test_a_forward_that_counts_in_a_tensor(self):
        class Counts(Block):
            def __init__(self) -> None:
                super().__init__()
                self.calls = torch.zeros(())

            def forward(self, x: Tensor) -> Tensor:
                self.calls.add_(1)
                return super().forward(x)

        block = Counts()
        assert "writes to a tensor" in self.refused(block)
        assert block.calls == 3

    def test_control_flow_on_values(self):
        class Branches(Block):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(-x if x.sum() > 0 else x)

        assert "cannot be traced" in self.refused(Branches())

    @pytest.mark.parametrize(
        "context",
        [
            torch.no_grad,
            lambda: torch.autocast("cpu", torch.bfloat16),
            lambda: torch.autograd.graph.save_on_cpu(),
        ],
        ids=["no_grad", "autocast", "saved tensors"],
    )
    def test_a_context_around_a_part(self, context):
        class Contextual(Block):
            def forward(self, x: Tensor) -> Tensor:
                with context():
                    shortcut = self.downsample(x)
                return self.relu(self.bn2(self.conv2(self.conv1(x))) + shortcut)

        assert "its forward" in self.refused(Contextual())

    def test_a_part_under_activation_checkpointing(self):
        class Checkpointed(Block):
            def forward(self, x: Tensor) -> Tensor:
                out = checkpoint(lambda x: self.conv2(self.relu(self.bn1(self.conv1(x)))), x, use_reentrant=False)
                return self.relu(self.bn2(out) + self.downsample(x))

        assert "saved" in self.refused(Checkpointed())

    def test_a_forward_that_asks_for_the_gradient_mode(self):
        class Asks(Block):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * (2 if torch.is_grad_enabled() else 1)

        assert "with gradients" in self.refused(Asks())

    def test_a_forward_that_reads_a_norms_mode(self):
        class Reads(Block):
            def forward(self, x: Tensor) -> Tensor:
                return F.dropout(super().forward(x), 0.0, self.bn1.training)

        assert "training and evaluation" in self.refused(Reads())

    def test_a_child_with_a_call_of_its_own(self):
        class Doubling(nn.Dropout):
            def __call__(self, x: Tensor) -> Tensor:
                return 2 * super().__call__(x)

        block = WithSomethingBetween(Doubling(0.0))
        assert "__call__ of its own" in self.refused(block)

    def test_a_fused_block_that_overwrites_its_input_is_waited_for(self):
        class Overwrites(Block):
            def forward(self, x: Tensor) -> Tensor:
                return F.relu(self.bn2(self.conv2(self.relu(x))) + x)

        class Around(Block):
            def __init__(self) -> None:
                super().__init__(8, 8, 1)
                self.inner = Overwrites()

            def forward(self, x: Tensor) -> Tensor:
                shortcut = self.downsample(x)
                return self.relu(self.inner(x) + shortcut)

        block, original = copies(Around())
        assert fused_resnet.fuse(block).fused.keys() == {"inner", ""}
        x = draw(4, 8, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(block(x.clone()), original(x.clone()))

    def test_modules_called_by_keyword_are_left_outside(self):
        class Keywords(Block):
            def forward(self, x: Tensor) -> Tensor:
                out = self.conv2(F.relu(self.bn1(self.conv1(x))))
                return F.relu(self.bn2(input=out) + self.downsample(x))

        block, original = copies(Keywords())
        assert fused_resnet.fuse(block).fused == {"": "identity + downsample.0 + downsample.1 + relu"}
        assert_trains_alike(block, original)

    def test_an_addition_into_a_given_tensor_is_not_a_tail(self):
        class Into(Block):
            def forward(self, x: Tensor) -> Tensor:
                out, shortcut = (branch.detach() for branch in self.branches(x))
                return F.relu(torch.add(out, shortcut, out=out))

        block, original = copies(Into())
        assert not fused_resnet.fuse(block).fused
        x = draw()
        assert torch.equal(block(x), original(x))

    def test_parameters_and_contents_changed_later_count(self):
        class Gated(Block):
            def __init__(self) -> None:
                super().__init__()
                self.register_parameter("gate", None)
                self.options = {"scale": 1.0}

            def forward(self, x: Tensor) -> Tensor:
                out, shortcut = self.branches(x)
                out = out if self.gate is None else out * self.gate
                return self.relu(out * self.options["scale"] + shortcut)

        block, original = copies(Gated())
        fused_resnet.fuse(block)
        for model in (block, original):
            model.options["scale"] = 3.0
        torch.testing.assert_close(*(model.eval()(SOME) for model in (block, original)))
        for model in (block, original):
            model.gate = nn.Parameter(torch.full((), 0.5, dtype=torch.float64))
        assert_trains_alike(block.train(), original.train())

    def test_a_forward_of_the_instances_own(self):
        block = Block()
        block.forward = types.MethodType(lambda self, x: 2 * Block.forward(self, x), block)
        assert "replaced on the instance" in fused_resnet.fuse(block).refused[""]
        x = torch.randn(SHAPE)
        torch.testing.assert_close(block(x), 2 * Block.forward(block, x))

    def test_optional_arguments_take_the_original_forward(self):
        class Optional(Block):
            def forward(self, x: Tensor, gate: Tensor | None = None, *, twice: bool = False) -> Tensor:
                out, shortcut = self.branches(x)
                out = out if gate is None else out * gate
                return self.relu(out + shortcut) * (2 if twice else 1)

        block, original = copies(Optional())
        assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL}
        x, gate = draw(), draw(4, 8, 4, 4)
        for model in (block, original):
            model.eval()
        assert torch.equal(block(x, gate), original(x, gate))
        assert torch.equal(block(x, twice=True), original(x, twice=True))
        torch.testing.assert_close(block(x), original(x))
        torch.testing.assert_close(block(x=x), original(x))
        assert_trains_alike(block, original)
