"""Frozen norms of detection are part of tails, by what they compute."""

import copy

import pytest
import torch
from torch import nn
from user_blocks import WHOLE_TAIL, Block, assert_trains_alike, copies, draw
from user_norms import AnotherFormula, OfDetectron2, OfMaskRCNN, draw_buffers

import benchmarks.torchvision_operators  # noqa: F401 - before torchvision
import fused_resnet
from fused_resnet.conversion.frozen_norms import FrozenNorm, frozen_norm

torchvision = pytest.importorskip("torchvision")
timm_layers = pytest.importorskip("timm.layers")

KINDS = {
    "torchvision": torchvision.ops.FrozenBatchNorm2d,
    "detectron2": OfDetectron2,
    "maskrcnn-benchmark": OfMaskRCNN,
    "timm": lambda channels: timm_layers.FrozenBatchNormAct2d(channels, apply_act=False),
}


def frozen_block(kind) -> Block:
    block = Block()
    block.bn2, block.downsample[1] = kind(8), kind(8)
    draw_buffers(block)
    return block


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_block_with_frozen_norms_is_fused_and_trains_alike(kind, computed_tails):
    block, original = copies(frozen_block(kind))
    report = fused_resnet.fuse(block, strict=True)
    assert report.fused == {"": WHOLE_TAIL}
    assert report.fused_norms == ["bn2", "downsample.1"]
    assert_trains_alike(block, original)
    assert len(computed_tails) == 3
    assert_trains_alike(copy.deepcopy(block), copy.deepcopy(original))


def test_their_eps_is_the_modules_own():
    assert frozen_norm(torchvision.ops.FrozenBatchNorm2d(3, eps=0.25)) == FrozenNorm(0.25, relu=False)
    assert frozen_norm(OfMaskRCNN(3)) == FrozenNorm(0.0, relu=False)
    assert frozen_norm(timm_layers.FrozenBatchNormAct2d(3)) == FrozenNorm(1e-5, relu=True)


@pytest.mark.parametrize(
    "module",
    [nn.BatchNorm2d(3), AnotherFormula(3), timm_layers.FrozenBatchNormAct2d(3, act_layer=nn.SiLU), nn.Identity()],
    ids=lambda module: type(module).__name__,
)
def test_what_computes_something_else_is_none(module):
    assert frozen_norm(module) is None


def test_other_formulas_are_left_outside():
    block, original = copies(frozen_block(AnotherFormula))
    assert fused_resnet.fuse(block).fused == {"": "identity + identity + relu"}
    assert_trains_alike(block, original)


def test_a_class_that_is_patched_later_runs_what_was_patched(monkeypatch):
    block, original = copies(frozen_block(OfMaskRCNN))
    fused_resnet.fuse(block)
    monkeypatch.setattr(OfMaskRCNN, "forward", AnotherFormula.forward)
    assert_trains_alike(block, original)


def test_hooks_fire():
    block, original = copies(frozen_block(OfMaskRCNN))
    fused_resnet.fuse(block)
    for model in (block, original):
        model.bn2.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert_trains_alike(block, original)


@pytest.mark.parametrize("mode", ["autocast", "half precision input", "half precision"])
def test_dtypes_are_those_of_the_formula(mode, computed_tails):
    """Half times float is float; where all is half, so is the output, and the tail is fused."""
    block, original = copies(frozen_block(torchvision.ops.FrozenBatchNorm2d), torch.float32)
    block.bn1, original.bn1 = nn.Identity(), nn.Identity()
    fused_resnet.fuse(block)
    x = draw().float()
    if mode != "autocast":
        x = x.bfloat16()
        for model in (block, original):
            model.bfloat16()
    if mode == "half precision input":
        for model in (block, original):
            model.bn2.float(), model.downsample[1].float()
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        found, expected = block(x), original(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    assert len(computed_tails) == (mode == "half precision")


def test_a_detection_backbone_gets_the_unfused_gradients(computed_tails):
    """Its first layers are frozen: nothing is computed for these."""
    utils = torchvision.models.detection.backbone_utils
    backbone = utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    draw_buffers(backbone)
    for module in backbone.modules():
        if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
            module.weight.mul_(0.3)
    fused, original = copies(backbone.train())
    report = fused_resnet.fuse(fused, strict=True)
    assert len(report.fused) == 16
    x = draw(2, 3, 64, 64)
    gradients = []
    for model in (fused, original):
        sum(level.square().mean() for level in model(x).values()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert len(computed_tails) == 16
    assert gradients[0]["body.layer1.0.conv3.weight"] is None
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)
