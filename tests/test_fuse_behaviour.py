"""A fused block behaves as the block it was: hooks, copies, conversions, modes, and inputs of every kind."""

import copy
import io
import pickle
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from user_blocks import WHOLE_TAIL, Block, Written, assert_trains_alike, copies, iadd

import fused_resnet

X = (4, 6, 8, 8)


@pytest.fixture
def pair():
    """A fused block and an unfused copy of it, in float64."""
    block, original = copies(Block())
    assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL}
    return block, original


def draw(*shape: int) -> Tensor:
    return torch.randn(*(shape or X), dtype=torch.float64)


SWALLOWED = ["conv2", "bn2", "act", "downsample", "downsample.0", "downsample.1"]


class TestHooks:
    @pytest.mark.parametrize("path", ["", "conv1", *SWALLOWED])
    @pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook"])
    def test_hooks_registered_after_fuse_fire_as_in_the_unfused_block(self, path, kind):
        block = Written(torch.add, nn.ReLU())
        block.relu = nn.ReLU()  # PyTorch refuses backward hooks ahead of an operation in place
        pair = copies(block)
        assert fused_resnet.fuse(pair[0]).fused == {"": WHOLE_TAIL}
        fired = {block: [] for block in pair}
        for block in pair:
            register = getattr(block.get_submodule(path), f"register_{kind}")
            register(lambda module, *_, block=block: fired[block].append(type(module).__name__))
        assert_trains_alike(*pair)
        assert fired[pair[0]] == fired[pair[1]]
        assert fired[pair[0]]

    def test_hooks_on_the_block_itself_do_not_stand_against_fusing_it(self, computed_tails):
        block = Block()
        fired = []
        block.register_forward_hook(lambda *_: fired.append(1))
        assert fused_resnet.fuse(block, strict=True).fused == {"": WHOLE_TAIL}
        block(torch.randn(X))
        assert len(fired) == len(computed_tails) == 1

    def test_a_block_is_fused_again_when_its_hooks_are_gone(self, pair, computed_tails):
        handle = pair[0].bn2.register_forward_hook(lambda *_: None)
        pair[0](draw())
        assert not computed_tails
        handle.remove()
        pair[0](draw())
        assert len(computed_tails) == 1

    def test_hooks_on_all_modules_of_the_process_fire(self, pair):
        names = []
        handle = nn.modules.module.register_module_forward_hook(lambda m, *_: names.append(type(m).__name__))
        try:
            for block in pair:
                block(draw())
        finally:
            handle.remove()
        assert names[: len(names) // 2] == names[len(names) // 2 :]

    def test_a_relu_used_thrice_fires_its_hook_thrice(self):
        class Thrice(Block):
            def forward(self, x: Tensor) -> Tensor:
                return self.relu(super().forward(self.relu(x * 1)))

        block = Thrice()
        fused_resnet.fuse(block)
        fired = []
        block.relu.register_forward_hook(lambda *_: fired.append(1))
        block(torch.randn(X))
        assert len(fired) == 4


class TestCopies:
    def test_a_deepcopy_is_fused_and_independent(self, pair, computed_tails):
        block, original = pair
        twin = copy.deepcopy(block)
        nn.init.zeros_(block.bn2.weight)
        computed_tails.clear()
        assert_trains_alike(twin, original)
        assert len(computed_tails) == 3

    @pytest.mark.parametrize("save", [pickle.dumps, None], ids=["pickle", "torch.save"])
    def test_a_pickled_block_comes_back_fused(self, pair, save, computed_tails):
        block, original = pair
        if save is None:
            torch.save(block, stream := io.BytesIO())
            stream.seek(0)
            loaded = torch.load(stream, weights_only=False)
        else:
            loaded = pickle.loads(save(block))
        assert isinstance(loaded, Block)
        computed_tails.clear()
        assert_trains_alike(loaded, original)
        assert len(computed_tails) == 3

    def test_an_averaged_model_averages_a_fused_block(self, pair):
        averaged = [torch.optim.swa_utils.AveragedModel(block, use_buffers=True) for block in pair]
        for block, average in zip(pair, averaged, strict=True):
            for seed in range(2):
                torch.manual_seed(seed)
                block(draw())
                average.update_parameters(block)
        x = draw()
        torch.testing.assert_close(averaged[0].eval()(x), averaged[1].eval()(x))

    def test_a_replica_for_data_parallel_uses_its_own_modules(self, pair):
        block, _ = pair
        replica = block._replicate_for_data_parallel()
        replica._modules = dict(copy.deepcopy(block)._modules)
        nn.init.zeros_(replica.bn2.weight)
        nn.init.zeros_(replica.bn2.bias)
        x = draw()
        expected = F.relu(copy.deepcopy(block).downsample(x))
        torch.testing.assert_close(replica(x), expected)


class TestConversions:
    def test_norms_synchronised_after_fuse_are_used(self, pair):
        block, original = (nn.SyncBatchNorm.convert_sync_batchnorm(block) for block in pair)
        x = draw()
        assert torch.equal(block.eval()(x), original.eval()(x))

    def test_an_exchanged_child_is_used(self, pair):
        block, original = pair
        for model in pair:
            torch.manual_seed(0)
            model.bn2 = nn.GroupNorm(2, 8).double()
            model.downsample = nn.Conv2d(6, 8, 3, 2, padding=1).double()
        assert_trains_alike(block, original)

    def test_an_attribute_changed_after_fuse_counts(self):
        class Scaled(Block):
            scale = 1.0

            def __init__(self) -> None:
                super().__init__()
                self.doubled = False

            def forward(self, x: Tensor) -> Tensor:
                out, shortcut = self.branches(x)
                return self.relu((2 * out if self.doubled else out) + shortcut)

        block, original = copies(Scaled())
        fused_resnet.fuse(block)
        block.doubled = original.doubled = True
        assert_trains_alike(block, original)

    def test_a_relu_set_in_place_after_fuse_still_gives_the_same(self):
        class LateShortcut(Block):
            def forward(self, x: Tensor) -> Tensor:
                x = x + 0
                shortcut = self.downsample(x)
                return F.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(self.relu(x)))))) + shortcut)

        block = LateShortcut()
        block.relu = nn.ReLU()
        block, original = copies(block)
        fused_resnet.fuse(block)
        block.relu.inplace = original.relu.inplace = True
        x = draw()
        with torch.no_grad():
            torch.testing.assert_close(block(x), original(x))

    def test_a_forward_patched_on_the_class_later_is_used(self, monkeypatch):
        class Patched(Block):
            pass

        block = Patched()
        fused_resnet.fuse(block)
        monkeypatch.setattr(Patched, "forward", lambda self, x: x)
        assert block(x := torch.randn(X)) is x

    def test_a_parametrized_weight_is_used_and_trained(self, pair):
        for block in pair:
            torch.manual_seed(0)
            parametrizations.weight_norm(block.conv2)
            parametrize.register_parametrization(block.downsample[0], "weight", nn.Tanh())
        assert_trains_alike(*pair)

    def test_a_pruning_mask_holds(self, pair):
        for block in pair:
            prune.l1_unstructured(block.conv2, "weight", amount=0.5)
        assert_trains_alike(*pair)

    def test_frozen_parts_stay_frozen(self, pair):
        for block in pair:
            block.conv2.requires_grad_(False)
            block.downsample.requires_grad_(False)
            block.bn2.eval()
        assert_trains_alike(*pair)
        assert pair[0].bn2.num_batches_tracked == 0

    def test_momentum_eps_and_tracking_are_read_at_every_call(self, pair):
        for block in pair:
            block.bn2.momentum, block.bn2.eps = None, 0.1
            block.downsample[1].track_running_stats = False
        assert_trains_alike(*pair)

    def test_a_model_moves_to_another_dtype(self, pair):
        x = torch.randn(X)
        for block in pair:
            block.float()
        torch.testing.assert_close(pair[0](x), pair[1](x))

    def test_functional_call_uses_the_parameters_it_is_given(self, pair):
        given = {name: torch.randn_like(value) for name, value in pair[0].named_parameters()}
        x = draw()
        outputs = [torch.func.functional_call(block, given, (x,)) for block in pair]
        torch.testing.assert_close(*outputs)

    def test_activation_checkpointing_updates_statistics_as_the_unfused_block_does(self, pair):
        """Statistics are updated by both runs of the forward (pytorch issue 96136)."""
        x = draw().requires_grad_()
        for block in pair:
            checkpoint(block, x, use_reentrant=False).sum().backward()
        assert pair[0].bn2.num_batches_tracked == pair[1].bn2.num_batches_tracked == 2
        torch.testing.assert_close(pair[0].state_dict(), pair[1].state_dict())

    def test_a_trace_of_a_fused_block_shows_the_standard_operations(self, pair):
        graphs = [fx.symbolic_trace(block).graph for block in pair]
        assert str(graphs[0]) == str(graphs[1])


class Flexible(nn.Module):
    """A block whose tail takes what the operands' shapes and dtypes make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.linear = nn.Linear(6, 6)
        self.use_linear = False

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return torch.relu((self.linear if self.use_linear else self.conv)(x) + shortcut)


class TestInputsThatATailRefuses:
    """They run the original operations (probes of torch.fx: a graph hides shapes and dtypes)."""

    @pytest.mark.parametrize(
        ("x", "shortcut"),
        [
            ((6, 5, 5), (6, 5, 5)),
            ((2, 6, 5, 5), (1, 6, 1, 1)),
            ((1, 6, 5, 5), (2, 6, 5, 5)),
            ((2, 6, 5, 5), (5,)),
            ((0, 6, 5, 5), (0, 6, 5, 5)),
        ],
    )
    def test_shapes(self, x, shortcut):
        block, original = Flexible(), Flexible()
        original.load_state_dict(block.state_dict())
        assert fused_resnet.fuse(block).fused
        operands = torch.randn(x), torch.randn(shortcut)
        assert torch.equal(block(*operands), original(*operands))

    def test_a_linear_layer_and_an_addition(self):
        block = Flexible()
        block.use_linear = True
        original = copy.deepcopy(block)
        assert fused_resnet.fuse(block).fused
        x = torch.randn(3, 6)
        assert torch.equal(block(x, x), original(x, x))

    def test_mixed_dtypes_promote(self):
        block = Flexible()
        fused_resnet.fuse(block)
        assert block(torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5).double()).dtype == torch.float64

    @pytest.mark.parametrize(("addition", "dtype"), [(torch.add, torch.float32), (iadd, torch.bfloat16)])
    def test_a_float32_identity_under_autocast(self, addition, dtype):
        block = Written(addition, torch.relu)
        block.conv1, block.downsample = nn.Conv2d(8, 8, 1), nn.Identity()
        block, original = copies(block, torch.float32)
        fused_resnet.fuse(block)
        x = torch.randn(2, 8, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = [model(x) for model in (block, original)]
        assert outputs[0].dtype == outputs[1].dtype == dtype
        torch.testing.assert_close(*outputs)

    def test_one_value_a_channel_raises_as_before(self, pair):
        for block in pair:
            with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
                block(draw(1, 6, 1, 1))


class TestTracing:
    """Tracing leaves no mark; what a graph cannot show is refused."""

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

    def test_a_forward_that_draws_random_numbers(self):
        class Random(Block):
            def forward(self, x: Tensor) -> Tensor:
                if torch.rand(()) > 2:
                    return x
                return super().forward(x)

        assert "random numbers" in self.refused(Random())

    def test_control_flow_on_values(self):
        class Branches(Block):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(-x if x.sum() > 0 else x)

        assert "cannot be traced" in self.refused(Branches())

    def test_a_forward_of_the_instances_own(self):
        block = Block()
        block.forward = types.MethodType(lambda self, x: 2 * Block.forward(self, x), block)
        assert "replaced on the instance" in fused_resnet.fuse(block).refused[""]
        x = torch.randn(X)
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
