"""The models: torchvision's parameters under torchvision's names, and the CIFAR nets of the paper."""

from typing import get_args

import pytest
import torch
from torch import nn

from fused_resnet import models
from fused_resnet.nn import ResidualBlock, Shortcut

TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
)
CIFAR = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}


@pytest.fixture(scope="module")
def torchvision_models():
    pytest.importorskip("benchmarks.torchvision_operators", reason="torchvision is not installed", exc_type=ImportError)
    return pytest.importorskip("torchvision.models")


def layout(state):
    return [(name, tuple(t.shape), t.dtype) for name, t in state]


def on_meta(make, **options):
    with torch.device("meta"):
        return make(**options)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_are_torchvisions_in_name_shape_and_order(name, torchvision_models):
    ours, theirs = on_meta(getattr(models, name)), on_meta(getattr(torchvision_models, name))
    assert layout(ours.named_parameters()) == layout(theirs.named_parameters())
    assert layout(ours.state_dict().items()) == layout(theirs.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_state_dicts_are_interchangeable_and_give_the_same_output(name, torchvision_models):
    ours, theirs = getattr(models, name)(num_classes=7).eval(), getattr(torchvision_models, name)(num_classes=7).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for source, target in ((theirs, ours), (ours, theirs)):
            for buffer in (b for n, b in source.named_buffers() if "running" in n):
                buffer.uniform_(0.5, 1.5)
            target.load_state_dict(source.state_dict(), strict=True)
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*TORCHVISION, *CIFAR])
def test_every_constructor_takes_every_option(name):
    make = getattr(models, name)
    for shortcut in get_args(Shortcut):
        assert on_meta(make, shortcut=shortcut).fc.out_features == (10 if name in CIFAR else 1000)
    assert not any(block.fused for block in blocks_of(on_meta(make, fused=False)))
    model = on_meta(make, preactivation=True, num_classes=5, in_channels=1)
    assert (model.fc.out_features, model.conv1.in_channels) == (5, 1)
    assert not hasattr(model, "bn1")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_shapes_can_be_had_without_data(name):
    with torch.device("meta"):
        model = getattr(models, name)(num_classes=7)
        assert model(torch.empty(2, 3, 64, 64)).shape == (2, 7)


def blocks_of(model):
    return [m for m in model.modules() if isinstance(m, ResidualBlock)]


def depth_of(model):
    """Layers with weights on the main path."""
    shortcuts = sum(isinstance(m, nn.Conv2d) for b in blocks_of(model) for m in b.downsample.modules())
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) - shortcuts


@pytest.mark.parametrize(("name", "depth"), CIFAR.items())
def test_cifar_nets_have_their_depth_and_width(name, depth):
    model = on_meta(getattr(models, name))
    assert depth_of(model) == depth
    assert len(blocks_of(model)) == (depth - 2) // 2
    assert [getattr(model, stage)[-1].conv2.out_channels for stage in model.stages] == [16, 32, 64]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_imagenet_nets_have_their_depth(name):
    assert depth_of(on_meta(getattr(models, name))) == int(name.removeprefix("resnet"))


def test_resnet20_has_the_papers_number_of_parameters():
    """He et al. 2015, table 6: 0.27 million."""
    model = on_meta(models.resnet20)
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert not any(list(b.downsample.parameters()) for b in blocks_of(model))


@pytest.mark.parametrize("depth", [2, 7, 18, 21, 0, -4])
def test_impossible_cifar_depth(depth):
    with pytest.raises(ValueError, match=rf"depth is {depth}, expected 6n \+ 2"):
        models.cifar_resnet(depth)


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("shortcut", get_args(Shortcut))
@pytest.mark.parametrize("make", [models.resnet18, models.resnet50])
def test_every_shortcut_trains_as_the_unfused_model(make, shortcut, preactivation):
    options = {"shortcut": shortcut, "preactivation": preactivation, "num_classes": 4, "width": 8, "small_images": True}
    fused, unfused = make(**options).double(), make(**options, fused=False).double()
    unfused.load_state_dict(fused.state_dict())
    losses = [trained(model) for model in (fused, unfused)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(dict(fused.named_parameters()), dict(unfused.named_parameters()))
    torch.testing.assert_close(dict(fused.named_buffers()), dict(unfused.named_buffers()))
    without = {n for n, p in fused.named_parameters() if p.grad is None}
    assert without == {n for n, p in fused.named_parameters() if not p.requires_grad}
    assert bool(without) == (shortcut == "frozen")


def trained(model, steps=2):
    """The losses of some steps on one batch."""
    torch.manual_seed(1)
    x, labels = torch.randn(8, 3, 16, 16, dtype=torch.double), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(model(x), labels))
        losses[-1].backward()
        optimizer.step()
    return torch.stack(losses).detach()


def test_frozen_weights_stay_orthonormal_after_initialisation():
    model = models.resnet20(shortcut="frozen")
    weights = [p for p in model.parameters() if not p.requires_grad]
    assert len(weights) == 2
    for weight in weights:
        w = weight.flatten(1)
        torch.testing.assert_close(w.T @ w, torch.eye(w.shape[1]))


def test_zero_init_residual_starts_each_block_as_its_shortcut():
    model = models.resnet18(zero_init_residual=True, num_classes=3, width=8)
    blocks = blocks_of(model)
    assert not any(b.last_norm.weight.any() for b in blocks)
    x = torch.rand(2, 8, 5, 5)
    torch.testing.assert_close(blocks[0](x), x)
