"""Blocks and shortcuts: fused against ``fused=False``, for every block and every way across a change of shape."""

import copy
import io
import pickle
from typing import get_args

import pytest
import torch
from compare import assert_accurate
from torch import nn

from fused_resnet.functional import Direct, Projection, ZeroPad
from fused_resnet.nn import (
    BasicBlock,
    Bottleneck,
    IdentityShortcut,
    NoShortcut,
    PreActBasicBlock,
    PreActBottleneck,
    ProjectionShortcut,
    Shortcut,
    ZeroPadShortcut,
    make_shortcut,
)

BLOCKS = (BasicBlock, Bottleneck, PreActBasicBlock, PreActBottleneck)
OPTIONS = get_args(Shortcut)

each_block = pytest.mark.parametrize("block", BLOCKS)
each_option = pytest.mark.parametrize("option", OPTIONS)


def trained(block, x, steps=3):
    """What training for some steps gives: outputs, first gradients, last parameters, buffers, then an evaluation."""
    block, x = copy.deepcopy(block).train(), x.detach().requires_grad_()
    optimizer = torch.optim.SGD([p for p in block.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    result = {}
    for step in range(steps):
        optimizer.zero_grad()
        y = block(x)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)).sum().backward()
        result[f"output {step}"] = y.detach()
        if step == 0:
            result |= {f"gradient of {n}": p.grad.clone() for n, p in block.named_parameters() if p.grad is not None}
        optimizer.step()
    result["gradient of x"] = x.grad
    result |= {name: t.detach() for name, t in block.state_dict().items()}
    result["evaluation"] = block.eval()(x).detach()
    return result


def with_unfused(block):
    unfused = copy.deepcopy(block)
    unfused.fused = False
    return block, unfused


@each_option
@each_block
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_fused_block_trains_as_the_unfused_one(block, option, dtype, device):
    fused, unfused = with_unfused(block(4, 6, 2, shortcut=option).to(device, dtype))
    x = torch.randn(4, 4, 7, 7, dtype=dtype, device=device)
    tested, eager, exact = trained(fused, x), trained(unfused, x), trained(unfused.double(), x.double())
    assert tested.keys() == eager.keys()
    for name, value in tested.items():
        if value.is_floating_point():
            assert_accurate(name, value, eager[name], exact[name])
        else:
            assert torch.equal(value, eager[name]), name


@each_option
@each_block
def test_fused_block_runs_its_tail_as_one_operation(block, option, computed_tails):
    for each in with_unfused(block(4, 6, 2, shortcut=option)):
        each(torch.randn(2, 4, 6, 6))
        assert len(computed_tails) == 1  # the fused block's, which comes first
    (main, shortcut, activation) = computed_tails[0]
    assert type(main) is (Projection if block in (Bottleneck, PreActBottleneck) else Direct)
    assert type(shortcut) is {"A": ZeroPad, "none": type(None)}.get(option, Projection)
    assert activation == (None if block in (PreActBasicBlock, PreActBottleneck) else "relu")


@each_option
@each_block
def test_shortcut_is_the_identity_where_the_shape_does_not_change(block, option):
    same_shape = block(4 * block.expansion, 4, shortcut=option).downsample
    expected = {"C": ProjectionShortcut, "none": NoShortcut}.get(option, IdentityShortcut)
    assert type(same_shape) is expected
    changed = block(4 * block.expansion, 4, 2, shortcut=option).downsample
    expected = {"A": ZeroPadShortcut, "none": NoShortcut}.get(option, ProjectionShortcut)
    assert type(changed) is expected


@each_block
def test_projection_has_a_norm_but_in_preactivation(block):
    preactivation = block in (PreActBasicBlock, PreActBottleneck)
    assert [type(m) for m in block(6, 4, 2).downsample] == [nn.Conv2d] + [nn.BatchNorm2d] * (not preactivation)
    assert [type(m) for m in block(6, 4, 2, shortcut="D").downsample][:2] == [nn.AvgPool2d, nn.Conv2d]


def test_plain_net_has_no_shortcut(device):
    block = BasicBlock(4, 4, shortcut="none").to(device).eval()
    x = torch.randn(2, 4, 5, 5, device=device)
    main = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), main.relu())


def test_zero_padded_shortcut_has_no_parameters():
    assert list(BasicBlock(4, 8, 2, shortcut="A").downsample.parameters()) == []


@pytest.mark.parametrize(("in_channels", "out_channels"), [(4, 10), (10, 4), (6, 6)])
def test_frozen_weight_is_orthonormal_and_stays(in_channels, out_channels, device):
    shortcut = make_shortcut("frozen", in_channels, out_channels, 2).to(device)
    w = shortcut[0].weight.flatten(1)
    product = w.T @ w if out_channels >= in_channels else w @ w.T
    torch.testing.assert_close(product, torch.eye(min(in_channels, out_channels), device=device))
    assert [n for n, p in shortcut.named_parameters() if not p.requires_grad] == ["0.weight"]
    other = make_shortcut("frozen", in_channels, out_channels, 2)[0].weight
    assert not torch.equal(w, other.flatten(1).to(device)), "each block draws its own"


@each_block
def test_frozen_block_trains_everything_but_the_weight(block, device):
    fused = block(6, 4, 2, shortcut="frozen").to(device)
    fused(torch.randn(4, 6, 6, 6, device=device)).square().sum().backward()
    untouched = [n for n, p in fused.named_parameters() if p.grad is None]
    assert untouched == ["downsample.0.weight"]


def test_shortcut_options_that_cannot_be():
    with pytest.raises(ValueError, match=r"shortcut is 'E', expected one of 'A', 'B'"):
        BasicBlock(4, 8, shortcut="E")
    with pytest.raises(ValueError, match="'A' cannot go from 8 to 4 channels"):
        BasicBlock(8, 4, shortcut="A")


@each_block
def test_copies_and_checkpoints(block, device):
    fused = block(6, 4, 2, shortcut="frozen").to(device)
    x = torch.randn(4, 6, 6, 6, device=device)
    fused(x)
    stored = io.BytesIO()
    torch.save(fused.state_dict(), stored)
    stored.seek(0)
    loaded = block(6, 4, 2, shortcut="frozen").to(device)
    loaded.load_state_dict(torch.load(stored, weights_only=True))
    whole = io.BytesIO()
    torch.save(fused, whole)
    whole.seek(0)
    others = [loaded, copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), torch.load(whole, weights_only=False)]
    expected = fused.eval()(x)
    for other in others:
        assert other.fused
        assert torch.equal(other.eval()(x), expected)
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in fused.parameters()}


@each_block
def test_standard_layout_of_the_state_dict_survives_either_way(block):
    fused, unfused = block(6, 4, 2), block(6, 4, 2, fused=False)
    assert list(fused.state_dict()) == list(unfused.state_dict())
    assert [n for n, _ in fused.named_modules()] == [n for n, _ in unfused.named_modules()]


def test_groups_and_base_width(device):
    fused, unfused = with_unfused(Bottleneck(8, 4, 2, groups=2, base_width=64).double().to(device))
    assert fused.conv2.groups == 2
    assert fused.conv2.in_channels == 8
    x = torch.randn(3, 8, 6, 6, dtype=torch.double, device=device)
    torch.testing.assert_close(fused(x), unfused(x))
