"""A fused block behaves as the block it was: hooks, copies, conversions and modes."""

import copy
import io
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from user_blocks import SHAPE, WHOLE_TAIL, Block, Written, assert_trains_alike, copies, draw

import fused_resnet


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else x * 1


class AroundUntraceable(Block):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Untraceable()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.inner(x))


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
        block(torch.randn(SHAPE))
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
        block(torch.randn(SHAPE))
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

    def test_copies_are_as_fused_as_the_model_was(self, computed_tails):
        """A block around one that cannot be traced keeps its tail in copies, made in any thread."""

        model = copies(AroundUntraceable())[0]
        assert fused_resnet.fuse(model).fused.keys() == {""}
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        threads = [threading.Thread(target=twin, args=(draw(),)) for twin in twins * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(computed_tails) == len(threads)

    def test_another_instance_of_a_fused_class_is_not_fused_but_works(self, pair, computed_tails):
        another = type(pair[0])().double()
        assert another(draw()).shape == (4, 8, 4, 4)
        assert not computed_tails
        fused_resnet.unfuse(another)
        assert type(another) is Block

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

    def test_a_copy_of_a_compiled_block_is_fused(self, computed_tails):
        """PyTorch's copies are not compiled."""
        block = Block()
        block.compile(backend="eager")
        assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL}
        copy.deepcopy(block)(torch.randn(SHAPE))
        assert len(computed_tails) == 1


class TestConversions:
    def test_norms_synchronised_after_fuse_stay_fused(self, pair, computed_tails):
        block, original = (nn.SyncBatchNorm.convert_sync_batchnorm(block) for block in pair)
        assert isinstance(block.bn2, nn.SyncBatchNorm)
        assert_trains_alike(block, original)
        assert computed_tails

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
        assert block(x := torch.randn(SHAPE)) is x

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
        x = torch.randn(SHAPE)
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

    def test_a_norm_that_ran_unfused_and_then_fused_goes_backward_for_both(self, pair):
        """Running statistics change between the first forward and its backward, as they do unfused."""
        x = draw()
        for block in pair:
            unfused_run = F.relu(sum(block.branches(x)))
            (unfused_run.square().sum() + block(x).square().sum()).backward()
        torch.testing.assert_close(*(block.conv2.weight.grad for block in pair))

    def test_a_trace_of_a_fused_block_shows_the_standard_operations(self, pair):
        graphs = [fx.symbolic_trace(block).graph for block in pair]
        assert str(graphs[0]) == str(graphs[1])

    def test_a_forward_of_a_containers_own_is_called(self, pair, computed_tails):
        """As accelerate's hooks set it."""
        pair[0](draw())  # so that there is something to remember
        pair[1].load_state_dict(pair[0].state_dict())
        del computed_tails[:]
        for block in pair:
            own = type(block.downsample).forward.__get__(block.downsample)
            block.downsample.forward = lambda x, own=own: 3 * own(x)
        assert_trains_alike(*pair)
        assert not computed_tails

    @pytest.mark.parametrize("ahead", [True, False], ids=["ahead of fuse", "after it"])
    @pytest.mark.parametrize(
        ("name", "size"), [("stride", 2), ("stride", (2,)), ("stride", [2, 2]), ("kernel_size", 1), ("padding", 0)]
    )
    def test_sizes_of_a_convolution_take_the_forms_that_pytorch_takes(self, name, size, ahead, computed_tails):
        """Segmentation surgery sets strides to numbers."""
        pair = copies(Block())
        if not ahead:
            assert fused_resnet.fuse(pair[0]).fused == {"": WHOLE_TAIL}
        for block in pair:
            setattr(block.downsample[0], name, size)
        if ahead:
            assert fused_resnet.fuse(pair[0]).fused == {"": WHOLE_TAIL}
        assert_trains_alike(*pair)
        assert computed_tails


def statistics_of_the_batch(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, norm.weight, norm.bias, True)


def twice_the_convolution(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return 2 * F.conv2d(x, weight, bias, conv.stride, conv.padding)


def leaky(relu: nn.ReLU, x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


class TestPatchedClasses:
    """Adaptation at test time exchanges a method for all modules of a class."""

    each_patch = pytest.mark.parametrize(
        ("cls", "method", "patch"),
        [
            (nn.BatchNorm2d, "forward", statistics_of_the_batch),
            (_BatchNorm, "forward", statistics_of_the_batch),
            (nn.Conv2d, "_conv_forward", twice_the_convolution),
            (nn.ReLU, "forward", leaky),
        ],
    )

    @each_patch
    @pytest.mark.parametrize("ahead", [True, False], ids=["ahead of fuse", "after it"])
    def test_a_fused_block_runs_what_was_patched(self, cls, method, patch, ahead, monkeypatch):
        pair = copies(Block())
        if ahead:
            monkeypatch.setattr(cls, method, patch)
        fused_resnet.fuse(pair[0])
        if not ahead:
            pair[0](draw())  # so that there is something to remember
            pair[1].load_state_dict(pair[0].state_dict())
            monkeypatch.setattr(cls, method, patch)
        for block in pair:
            block.eval()
        x = draw()
        torch.testing.assert_close(pair[0](x), pair[1](x))

    @each_patch
    def test_a_block_of_this_package_runs_what_was_patched(self, cls, method, patch, monkeypatch):
        blocks = [fused_resnet.nn.Bottleneck(8, 4, stride=2, fused=fused).double().eval() for fused in (True, False)]
        blocks[1].load_state_dict(blocks[0].state_dict())
        x = draw(2, 8, 6, 6)
        torch.testing.assert_close(blocks[0](x), blocks[1](x))
        monkeypatch.setattr(cls, method, patch)
        torch.testing.assert_close(blocks[0](x), blocks[1](x))
