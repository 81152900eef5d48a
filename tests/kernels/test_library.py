"""The strategy "library": PyTorch's own convolution computes a projection, and the tail starts from its output."""

import copy

import pytest
import torch
from compare import assert_as_accurate_as_unfused
from samples import SAMPLES, build

import fused_resnet
from fused_resnet.functional import Direct, Projection, residual_tail
from fused_resnet.nn import Bottleneck
from fused_resnet.operation.relu_mask import is_packed, pack
from fused_resnet.strategy import use_strategy

PROJECTIONS = [name for name, s in SAMPLES.items() if "projection" in (s.main.source, s.shortcut and s.shortcut.source)]


@pytest.fixture(autouse=True)
def _library():
    with use_strategy("library"):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_it_is_as_accurate_as_the_unfused_modules(name, dtype, device):
    tail, inputs, dy = build(SAMPLES[name].with_dtype(dtype), device)
    for _ in range(2):  # the second time it is remembered
        assert_as_accurate_as_unfused(copy.deepcopy(tail), inputs, dy)


def test_autograd_knows_the_convolution(device):
    tail, inputs, _ = build(SAMPLES["bottleneck projection"], device)
    for _ in range(3):
        y = tail.fused(inputs)
        parents = [type(node).__name__ for node, _ in y.grad_fn.next_functions if node is not None]
        assert sum("Convolution" in name for name in parents) == 2


def test_the_input_of_a_norm_is_saved_and_nothing_of_the_projection_twice(device):
    tail, inputs, _ = build(SAMPLES["bottleneck identity"], device)
    for _ in range(3):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t) or t, lambda t: t):
            y = tail.fused(inputs)
        storages = {t.untyped_storage().data_ptr(): t.nbytes for t in saved}
        x, weight = inputs["main.x"], tail.main.conv.weight
        vectors = 3 * y.shape[1]  # weight, mean, variance
        mask = pack(y).nbytes if any(map(is_packed, saved)) else y.nbytes
        floats = x.numel() + weight.numel() + y.numel() + vectors  # of y's size: the pre-norm tensor
        assert sum(storages.values()) == 4 * floats + mask


@pytest.mark.parametrize("autocast", [False, True])
def test_a_block_computes_the_same_and_trains(autocast, device):
    torch.manual_seed(0)
    block = Bottleneck(32, 8, shortcut="C").to(device)
    plain = fused_resnet.unfuse(copy.deepcopy(block))
    x = torch.randn(4, 32, 5, 5, device=device)
    for _ in range(3):
        gradients = []
        for model in (block, plain):
            own = x.clone().requires_grad_()
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
                y = model(own)
            y.float().square().mean().backward()
            gradients.append([y.float(), own.grad, *(p.grad for p in model.parameters())])
            model.zero_grad()
        tolerance = {"rtol": 0.05, "atol": 0.05} if autocast else {"rtol": 1e-3, "atol": 1e-4}
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs, **tolerance)


def test_it_is_told(device):
    block = Bottleneck(32, 8, 2).to(device)
    (tail,) = fused_resnet.explain(block, torch.randn(2, 32, 6, 6, device=device)).tails
    assert (tail.main.source, tail.main.strategy, tail.main.in_channels) == ("projection", "library", 8)
    assert (tail.shortcut.strategy, tail.shortcut.stride) == ("library", 2)


def test_what_is_compiled_computes_the_same(device):
    x = torch.randn(2, 8, 3, 3, device=device)
    weight = torch.randn(8, 8, 1, 1, device=device)

    def tail(x):
        return residual_tail(Projection(x, weight), Direct(x))

    torch.testing.assert_close(torch.compile(tail, backend="aot_eager", fullgraph=True)(x), tail(x))
