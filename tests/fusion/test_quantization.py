"""Copies of a fused network that PyTorch prepares for quantisation: what the unfused network's copies are.

Preparing exchanges convolutions and norms for modules of its own, or puts observers on them as hooks, so nothing that
is observed may be swallowed.
"""

import copy

import pytest
import torch
from small_nets import NETS, assert_alike, make_nets
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from user_blocks import WHOLE_TAIL

import fused_resnet

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.* are deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*reduce_range will be deprecated:UserWarning"),
]
ENGINE = "x86"
# Within one of the user's blocks.
FOLDED = (("conv1", "bn1"), ("conv2", "bn2"), ("downsample.0", "downsample.1"))


@pytest.fixture(params=NETS)
def nets(request, backend):
    """On the CPU, in the float32 that quantisation starts from."""
    return make_nets(request.param, torch.float32, "cuda" if backend == "cuda" else "cpu")


@pytest.fixture
def users_nets(backend):
    return make_nets("users", torch.float32, "cuda" if backend == "cuda" else "cpu")


def prepared(model, modules_to_fuse=()):
    """A copy for quantisation-aware training in eager mode."""
    model = copy.deepcopy(model).train()
    if modules_to_fuse:
        model = quantization.fuse_modules_qat(model, modules_to_fuse)
    model.qconfig = quantization.get_default_qat_qconfig(ENGINE)
    return quantization.prepare_qat(model)


def train(nets, models):
    losses = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(2):
            optimizer.zero_grad()
            losses.append(nets.loss(model, step))
            losses[-1].backward()
            optimizer.step()
    assert losses[:2] == losses[2:]
    assert_alike(*models, tolerance=0.0)


def test_a_copy_for_quantisation_aware_training_trains_as_the_unfused_networks_does(nets, computed_tails):
    train(nets, [prepared(model) for model in nets.both])
    assert not computed_tails


def test_so_does_one_whose_norms_are_folded_into_convolutions(users_nets, computed_tails):
    pairs = [[f"{block}.{part}" for part in pair] for block in ("blocks.0", "blocks.1") for pair in FOLDED]
    train(users_nets, [prepared(model, pairs) for model in users_nets.both])
    assert not computed_tails


def test_fuse_on_a_prepared_copy_says_what_is_observed(users_nets):
    copied = prepared(users_nets.unfused)
    report = fused_resnet.fuse(copied)
    assert report.refused["blocks.0.bn2"] == "BatchNorm2d has hooks"
    assert WHOLE_TAIL not in report.fused.values()
    train(users_nets, [copied, prepared(users_nets.unfused)])


def test_norms_folded_into_convolutions_for_evaluation(users_nets):
    """``fuse_modules`` leaves convolutions with a bias, and identities in the places of the norms."""
    images, _ = users_nets.batch()
    pairs = [["blocks.0.conv2", "blocks.0.bn2"], ["blocks.0.downsample.0", "blocks.0.downsample.1"]]
    folded = [quantization.fuse_modules(copy.deepcopy(model).eval(), pairs) for model in users_nets.both]
    expected = users_nets.unfused.eval()(images)
    for model in folded:
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert fused_resnet.fuse(folded[0]).fused == {
        "blocks.0": "conv2 + downsample.0 + relu",
        "blocks.1": WHOLE_TAIL,
    }
    torch.testing.assert_close(folded[0](images), expected, rtol=1e-4, atol=1e-5)


def test_a_network_quantised_by_its_graph_has_the_unfused_networks_integers(nets):
    if nets.device != "cpu" or ENGINE not in torch.backends.quantized.supported_engines:
        pytest.skip(f"PyTorch's {ENGINE} engine for quantised operators does not run here")
    images, _ = nets.batch()
    mapping = quantization.get_default_qat_qconfig_mapping(ENGINE)
    models = [quantize_fx.prepare_qat_fx(copy.deepcopy(m).train(), mapping, (images,)) for m in nets.both]
    train(nets, models)
    outputs = [quantize_fx.convert_fx(model.eval())(images) for model in models]
    assert torch.equal(*outputs)
    assert outputs[0].unique().numel() > 2
