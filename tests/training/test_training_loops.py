"""Training loops as users write them: a fused network goes through each as the unfused one does."""

import copy

import pytest
import torch
import torch.nn.functional as F
from compare import assert_accurate
from small_nets import TAILS, assert_close
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from user_blocks import WHOLE_TAIL, Block

import fused_resnet
from fused_resnet.nn import ResidualBlock


def optimizers_of(nets):
    """One for each network."""
    return [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in nets.both]


def blocks_of(model):
    """The residual blocks of a network of `small_nets`."""
    return [module for module in model.modules() if isinstance(module, (Block, ResidualBlock))]


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


class TestAccumulation:
    @pytest.mark.parametrize("set_to_none", [True, False])
    def test_gradients_of_several_batches_add_up_ahead_of_a_step(self, nets, set_to_none, computed_tails):
        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            for step in range(2):
                optimizer.zero_grad(set_to_none=set_to_none)
                for part in range(3):
                    (nets.loss(model, 3 * step + part) / 3).backward()
                optimizer.step()
        nets.assert_alike()
        assert len(computed_tails) == 6 * TAILS

    def test_a_graph_that_is_kept_gives_its_gradients_again(self, nets):
        for model in nets.both:
            loss = nets.loss(model)
            loss.backward(retain_graph=True)
            once = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
            loss.backward()
            for name, parameter in model.named_parameters():
                assert torch.equal(parameter.grad, 2 * once[name]), name
        nets.assert_alike()

    def test_a_graph_that_is_gone_says_so(self, nets):
        loss = nets.loss(nets.fused)
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()

    def test_two_losses_of_one_forward(self, nets):
        for model in nets.both:
            images, labels = nets.batch()
            logits = model(images)
            F.cross_entropy(logits, labels).backward(retain_graph=True)
            logits.square().mean().backward()
        nets.assert_alike()


class TestCheckpointing:
    @pytest.mark.parametrize("reentrant", [True, False])
    def test_around_each_block(self, nets, reentrant, computed_tails):
        """The forward runs twice, so running statistics move twice, fused or not."""
        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            for block in blocks_of(model):
                forward = block.forward

                def checkpointed(x, forward=forward):
                    return checkpoint(forward, x, use_reentrant=reentrant)

                block.forward = checkpointed
            for step in range(2):
                optimizer.zero_grad()
                nets.loss(model, step).backward()
                optimizer.step()
        nets.assert_alike()
        assert norms_of(nets.fused)[-1].num_batches_tracked == 4
        assert len(computed_tails) == 2 * 2 * TAILS

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_of_a_sequence_of_blocks(self, nets, reentrant, computed_tails):
        for model in nets.both:
            blocks = blocks_of(model)
            x = torch.randn(4, blocks[0].conv1.in_channels, 6, 6, generator=torch.Generator().manual_seed(1))
            x = x.to(nets.device, nets.dtype).requires_grad_()
            checkpoint_sequential(blocks, 2, x, use_reentrant=reentrant).square().mean().backward()
        nets.assert_alike()
        # The last part is not checkpointed.
        assert len(computed_tails) == TAILS + 1

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_by_wrapping_blocks_before_and_after_fuse(self, when, computed_tails):
        torch.manual_seed(0)
        block, original = Block().double(), Block().double()
        original.load_state_dict(block.state_dict())
        if when == "after":
            fused_resnet.fuse(block)
        wrapped = nn.Sequential(checkpoint_wrapper(block)), nn.Sequential(checkpoint_wrapper(original))
        if when == "before":
            assert list(fused_resnet.fuse(wrapped[0]).fused.values()) == [WHOLE_TAIL]
        x = torch.randn(4, 6, 8, 8, dtype=torch.float64, requires_grad=True)
        for model in wrapped:
            model(x).square().sum().backward()
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(parameter.grad, original.get_parameter(name).grad, msg=name)
        torch.testing.assert_close(block.state_dict(), original.state_dict())
        assert len(computed_tails) == 2


class TestBackward:
    """What acts on the graph of autograd or while it is gone through."""

    @pytest.mark.parametrize(
        "context",
        [
            lambda: torch.autograd.graph.save_on_cpu(),
            lambda: torch.autograd.graph.saved_tensors_hooks(torch.Tensor.clone, torch.Tensor.clone),
            lambda: torch.autograd.detect_anomaly(check_nan=True),
        ],
        ids=["save_on_cpu", "saved tensors as copies", "detect_anomaly"],
    )
    @pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
    def test_saved_tensors_may_be_packed_and_backward_watched(self, nets, context, computed_tails):
        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            with context():
                for step in range(2):
                    optimizer.zero_grad()
                    nets.loss(model, step).backward()
                    optimizer.step()
        nets.assert_alike()
        assert len(computed_tails) == 2 * TAILS

    def test_each_parameter_may_be_updated_as_soon_as_it_has_its_gradient(self, nets):
        """The optimizer's step within backward, so that gradients need no memory."""

        def update(parameter):
            parameter.data.sub_(0.05 * parameter.grad)
            parameter.grad = None

        for model in nets.both:
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(update)
            for step in range(2):
                nets.loss(model, step).backward()
        nets.assert_alike()

    def test_hooks_on_weights_see_and_change_their_gradients(self, nets):
        seen = []
        for model in nets.both:
            for name, parameter in model.named_parameters():
                parameter.register_hook(lambda gradient, name=name: seen.append(name) or 2 * gradient)
            nets.loss(model).backward()
        assert sorted(seen[: len(seen) // 2]) == sorted(seen[len(seen) // 2 :]) != []
        nets.assert_alike()

    def test_the_gradient_of_the_images(self, nets):
        """Adversarial examples and saliency maps: the parameters ask for nothing."""
        gradients = []
        for model in nets.both:
            images, labels = nets.batch()
            model.requires_grad_(False)
            loss = F.cross_entropy(model.eval()(images.requires_grad_()), labels)
            gradients += torch.autograd.grad(loss, images)
        assert_close("gradient of the images", *gradients, nets.tolerance)
        nets.assert_alike()


class TestInitialisation:
    def test_a_network_fused_on_the_meta_device_trains_once_it_has_memory(self, nets, computed_tails):
        """Deferred initialisation: shapes first, weights later."""
        state = {name: value.clone() for name, value in nets.unfused.state_dict().items()}
        with torch.device("meta"):
            meta = copy.deepcopy(nets.unfused).to("meta")
        assert len(fused_resnet.fuse(meta, strict=True).fused) == TAILS
        nets.fused = meta.to_empty(device=nets.device)
        nets.fused.load_state_dict(state)
        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            nets.loss(model).backward()
            optimizer.step()
        nets.assert_alike()
        assert len(computed_tails) == TAILS

    def test_parameters_exchanged_by_loading_are_the_ones_that_train(self, nets):
        own = nets.unfused.state_dict().items()
        state = {name: value / 2 if value.is_floating_point() else value for name, value in own}
        for model in nets.both:
            model.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
            model.requires_grad_(True)
        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            nets.loss(model).backward()
            optimizer.step()
        nets.assert_alike()


class TestFreezing:
    def test_parts_frozen_and_released_in_the_middle_of_training(self, nets, computed_tails):
        """What is frozen gets no gradient and keeps its value; then it trains again."""

        def set_trainable(model, step):
            frozen = {1: ("downsample", "bn1"), 2: ("conv", "fc")}.get(step, ())
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(not any(part in name for part in frozen))

        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            for step in range(4):
                set_trainable(model, step)
                optimizer.zero_grad()
                before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
                nets.loss(model, step).backward()
                optimizer.step()
                for name, value in before.items():
                    assert torch.equal(model.get_parameter(name), value), name
        nets.assert_alike()
        assert len(computed_tails) == 4 * TAILS

    def test_a_frozen_trunk_needs_no_backward(self, nets):
        for model in nets.both:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith("fc"))
            nets.loss(model).backward()
        nets.assert_alike()

    def test_norms_frozen_in_evaluation_in_the_middle_of_training(self, nets, computed_tails):
        """Their statistics stand still from then on; their weights train."""
        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            for step in range(4):
                model.train()
                for norm in norms_of(model) if step >= 2 else []:
                    norm.eval()
                optimizer.zero_grad()
                nets.loss(model, step).backward()
                optimizer.step()
        nets.assert_alike()
        assert all(norm.num_batches_tracked == 2 for norm in norms_of(nets.fused))
        assert len(computed_tails) == 4 * TAILS

    def test_only_the_norms_of_one_block_frozen(self, nets):
        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            for norm in norms_of(blocks_of(model)[0]):
                norm.eval()
                norm.requires_grad_(False)
            for step in range(2):
                optimizer.zero_grad()
                nets.loss(model, step).backward()
                optimizer.step()
        nets.assert_alike()

    def test_evaluation_between_training_steps(self, nets):
        for model, optimizer in zip(nets.both, optimizers_of(nets), strict=True):
            for step in range(3):
                optimizer.zero_grad()
                nets.loss(model.train(), step).backward()
                optimizer.step()
                with torch.inference_mode():
                    nets.loss(model.eval(), 9)
        nets.assert_alike()


class TestMixedPrecision:
    """The rule of ``tests/compare.py`` for what a loop leaves, with the unfused network in float64 as the truth."""

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_with_a_gradient_scaler_and_a_step_that_is_skipped(self, nets, dtype, computed_tails):
        exact = copy.deepcopy(nets.unfused).double()
        tested, eager = (scaled_steps(nets, model.float(), dtype) for model in nets.both)
        assert len(computed_tails) == 4 * TAILS
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in nets.fused.parameters())
        for name, truth in scaled_steps(nets, exact, None).items():
            assert_accurate(name, tested[name], eager[name], truth, dtype=dtype)

    def test_a_network_that_is_bfloat16_throughout(self, nets):
        """Weights, norms and running statistics included."""
        exact = copy.deepcopy(nets.unfused).double()
        models = [model.bfloat16() for model in nets.both]
        losses, statistics = [], []
        for model in (*models, exact):
            images, labels = nets.batch()
            loss = F.cross_entropy(model(images.to(model.fc.weight.dtype)).double(), labels)
            loss.backward()
            losses.append(loss.detach().reshape(1))
            statistics.append(torch.cat([norm.running_mean.double() for norm in norms_of(model)]))
        assert_accurate("loss", *losses, dtype=torch.bfloat16)
        assert_accurate("running means", *statistics, dtype=torch.bfloat16)

    def test_gradients_clipped_after_they_are_unscaled(self, nets):
        norms = []
        for model, optimizer in zip((m.float() for m in nets.both), optimizers_of(nets), strict=True):
            scaler = torch.amp.GradScaler(nets.device, init_scale=1024.0)
            scaler.scale(autocast_loss(nets, model, 0, torch.bfloat16)).backward()
            scaler.unscale_(optimizer)
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1).item())
            clipped = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
            assert clipped == pytest.approx(0.1, rel=1e-3)
        assert norms[0] == pytest.approx(norms[1], rel=0.05)


def autocast_loss(nets, model, seed, dtype):
    """The loss of one batch under autocast; without a dtype, with no autocast."""
    images, labels = nets.batch(seed)
    with torch.autocast(nets.device, dtype, enabled=dtype is not None):
        return F.cross_entropy(model(images.to(model.fc.weight.dtype)), labels)


def scaled_steps(nets, model, dtype):
    """Four steps with a gradient scaler, of which the third has no finite gradient: losses and the weights' change."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(nets.device, init_scale=256.0, growth_interval=2)
    start, losses, scales = flat(model), [], []
    for step in range(4):
        optimizer.zero_grad()
        before = flat(model)
        loss = autocast_loss(nets, model, step, dtype)
        scaler.scale(loss * (float("inf") if step == 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach().float())
        scales.append(scaler.get_scale())
        assert torch.equal(flat(model), before) is (step == 2)
    assert scales == [256.0, 512.0, 256.0, 256.0]
    assert all(norm.num_batches_tracked == 4 for norm in norms_of(model))  # a skipped step's forward counts
    return {"losses": torch.stack(losses), "change of the weights": (flat(model) - start).float()}


def flat(model):
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
