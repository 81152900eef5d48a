"""`fuse` on the ResNets of torchvision, timm and transformers: the same training under the same names."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, fx, nn
from user_blocks import WHOLE_TAIL, Block, assert_trains_alike, copies

import benchmarks.torchvision_operators  # noqa: F401 - before torchvision and all that imports it
import fused_resnet

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
feature_extraction = pytest.importorskip("torchvision.models.feature_extraction")
transformers = pytest.importorskip("transformers")

IMAGES = (4, 3, 64, 64)
# Training amplifies rounding: in three steps, weights perturbed by 1e-15 drift apart by up to 1e-10 here.
TOLERANCE = 1e-8


class TransformersResNet(nn.Module):
    def __init__(self, layer_type: str) -> None:
        super().__init__()
        config = transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2], layer_type=layer_type, num_labels=10
        )
        self.net = transformers.ResNetForImageClassification(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).logits


PROJECTION = "conv3 + bn3 + downsample.0 + downsample.1 + relu"
IDENTITY = "conv3 + bn3 + identity + relu"


def bottlenecks(first: str, rest: str, prefix: str = "layer") -> dict[str, str]:
    """What is fused in a ResNet-50, by block."""
    depths = {1: 3, 2: 4, 3: 6, 4: 3}
    return {f"{prefix}{i}.{j}": rest if j else first for i, depth in depths.items() for j in range(depth)}


def basic_blocks() -> dict[str, str]:
    outside = " (outside: conv2: 3x3 convolution)"
    blocks = dict.fromkeys(["layer1.0", "layer1.1"], "bn2 + identity + relu" + outside)
    for i in (2, 3, 4):
        blocks[f"layer{i}.0"] = "bn2 + downsample.0 + downsample.1 + relu" + outside
        blocks[f"layer{i}.1"] = "bn2 + identity + relu" + outside
    return blocks


def pre_activation() -> dict[str, str]:
    depths = (3, 4, 6, 3)
    blocks = {f"stages.{i}.blocks.{j}": "conv3 + identity" for i, depth in enumerate(depths) for j in range(depth)}
    return blocks | {f"stages.{i}.blocks.0": "conv3 + downsample.conv" for i in range(4)}


def of_transformers(last: str, outside: str = "") -> dict[str, str]:
    convolution = "" if outside else f"layer.{last}.convolution + "
    projection = f"{convolution}layer.{last}.normalization + shortcut.convolution + shortcut.normalization + relu"
    identity = f"{convolution}layer.{last}.normalization + identity + relu"
    names = itertools.product((0, 1), (0, 1))
    return {f"net.resnet.encoder.stages.{i}.layers.{j}": (identity if j else projection) + outside for i, j in names}


MODELS = {
    "torchvision resnet18": (lambda: torchvision.models.resnet18(), basic_blocks()),
    "torchvision resnet50": (lambda: torchvision.models.resnet50(), bottlenecks(PROJECTION, IDENTITY)),
    "torchvision wide_resnet50_2": (lambda: torchvision.models.wide_resnet50_2(), bottlenecks(PROJECTION, IDENTITY)),
    "torchvision resnext50_32x4d": (lambda: torchvision.models.resnext50_32x4d(), bottlenecks(PROJECTION, IDENTITY)),
    "timm resnet50": (lambda: timm.create_model("resnet50"), bottlenecks(PROJECTION, IDENTITY)),
    "timm resnet50d": (
        lambda: timm.create_model("resnet50d"),
        bottlenecks("conv3 + bn3 + downsample.1 + downsample.2 + relu", IDENTITY),
    ),
    "timm seresnet50": (
        lambda: timm.create_model("seresnet50"),
        bottlenecks("identity + downsample.0 + downsample.1 + relu", "identity + identity + relu"),
    ),
    "timm resnetv2_50": (lambda: timm.create_model("resnetv2_50"), pre_activation()),
    "transformers bottleneck": (lambda: TransformersResNet("bottleneck"), of_transformers("2")),
    "transformers basic": (
        lambda: TransformersResNet("basic"),
        of_transformers("1", " (outside: layer.1.convolution: 3x3 convolution)"),
    ),
}


# Of the same parts as others.
SLOW = (
    *("torchvision resnet50", "torchvision wide_resnet50_2", "torchvision resnext50_32x4d"),
    *("timm resnet50", "timm resnet50d", "timm seresnet50", "timm resnetv2_50"),
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODELS])
def test_a_fused_model_trains_as_the_unfused_one(name, computed_tails):
    make, expected = MODELS[name]
    model, original = copies(make())
    parameters = dict(model.named_parameters())
    keys, text = list(model.state_dict()), repr(model)

    report = fused_resnet.fuse(model, strict=True)

    assert report.fused == expected
    assert list(model.state_dict()) == keys
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert_trains_alike(model, original, IMAGES, TOLERANCE, steps=3)
    assert len(computed_tails) == 4 * len(expected)  # three steps and an evaluation
    assert fused_resnet.unfuse(model) is model
    assert repr(model) == text
    assert all(type(a) is type(b) for a, b in zip(model.modules(), original.modules(), strict=True))
    computed_tails.clear()
    assert_trains_alike(model, original, IMAGES, TOLERANCE, steps=1)
    assert not computed_tails


def test_stochastic_depth_is_left_outside_and_the_rest_fused():
    model = timm.create_model("resnet50", drop_path_rate=0.5)
    report = fused_resnet.fuse(model)
    dropped = bottlenecks("identity + downsample.0 + downsample.1 + relu", "identity + identity + relu")
    # The first block's rate is zero, so timm gives it no module for it.
    assert report.fused == dropped | {"layer1.0": PROJECTION}


def test_checkpoints_go_from_fused_to_unfused_and_back():
    fused, plain = torchvision.models.resnet18(), torchvision.models.resnet18()
    fused_resnet.fuse(fused)
    plain.load_state_dict(fused.state_dict(), strict=True)
    fused.load_state_dict(plain.state_dict(), strict=True)


def test_a_feature_extractor_of_torch_fx_is_left_as_it_is_and_said_so():
    """Its class is written anew whenever its graph changes, which its `train` does."""
    extractor = feature_extraction.create_feature_extractor(torchvision.models.resnet18(), ["layer2", "layer4"])
    model, original = copies(extractor)
    report = fused_resnet.fuse(model)
    assert not report.fused
    assert "GraphModule" in report.refused[""]
    x = torch.randn(IMAGES, dtype=torch.float64)
    outputs = [[of.train(training)(x) for training in (True, False)] for of in (model, copy.deepcopy(model), original)]
    for found in outputs[:2]:
        torch.testing.assert_close(found, outputs[2])


def test_a_module_of_torch_fx_within_a_block_is_called_as_it_is():
    class Around(Block):
        def __init__(self) -> None:
            super().__init__()
            self.inner = fx.symbolic_trace(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.inner(x))

    block, original = copies(Around())
    assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL}
    assert_trains_alike(block, original)
