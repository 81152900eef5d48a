"""`fuse(model, recompute=True)`: outputs of norms are not kept for backward; everything has the same bits."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from same_bits import assert_same_bits
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from user_blocks import Block

import benchmarks.torchvision_operators  # noqa: F401 - before torchvision
import fused_resnet
from fused_resnet import models
from fused_resnet.conversion import recomputation
from fused_resnet.nn import Bottleneck, PreActBottleneck
from fused_resnet.strategy import use_strategy

torchvision = pytest.importorskip("torchvision")


class OfUsersBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3))
        self.blocks = nn.Sequential(Block(6, 8, 1), Block(8, 8, 2))

    def forward(self, images):
        return self.blocks(self.stem(images)).mean((2, 3))


NETS = {
    "own": lambda: models.ResNet(Bottleneck, (1, 1), width=4, num_classes=5, small_images=True),
    "own, pre-activation": lambda: models.ResNet(
        PreActBottleneck, (1, 1), width=4, num_classes=5, small_images=True, preactivation=True
    ),
    "users": OfUsersBlocks,
}


@pytest.fixture
def dtype(backend):
    return torch.float64 if backend == "reference" else torch.float32


def make(net, dtype, device):
    """Norms fused, their outputs kept and computed again."""
    model = NETS[net]().to(device, dtype)
    models_ = model, copy.deepcopy(model)
    fused_resnet.fuse(models_[0], norms=True)
    fused_resnet.fuse(models_[1], recompute=True)
    return models_


def results(model, images):
    """Everything that a step leaves."""
    x = images.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return {"y": y.detach(), "dx": x.grad, **{n: p.grad for n, p in model.named_parameters()}, **model.state_dict()}


@pytest.fixture
def recomputed(monkeypatch):
    """How often an output is computed again."""
    calls = []
    compute = recomputation.Recipe._compute
    monkeypatch.setattr(recomputation.Recipe, "_compute", lambda self: calls.append(1) or compute(self))
    return calls


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("net", NETS)
def test_a_step_has_the_same_bits(net, training, dtype, device, recomputed):
    kept, forgotten = make(net, dtype, device)
    images = torch.randn(4, 3, 8, 8, dtype=dtype, device=device)
    for _ in range(2):
        for model in (kept, forgotten):
            model.train(training).zero_grad(set_to_none=True)
        assert_same_bits(*(results(model, images) for model in (kept, forgotten)))
    assert recomputed


def test_each_output_is_computed_once_a_backward(device, dtype, recomputed):
    """Its convolution's backward and its own come one after the other."""
    model = make("users", dtype, device)[1]
    results(model, torch.randn(2, 3, 8, 8, dtype=dtype, device=device))
    assert len(recomputed) == 3


def test_copies_and_pickles_recompute(recomputed):
    model = make("users", torch.float32, "cpu")[1]
    images = torch.randn(2, 3, 8, 8)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        recomputed.clear()
        results(twin, images)
        assert len(recomputed) == 3


def test_a_graph_may_be_gone_through_twice(device, dtype):
    kept, forgotten = make("users", dtype, device)
    images = torch.randn(2, 3, 8, 8, dtype=dtype, device=device)
    found = []
    for model in (kept, forgotten):
        loss = model(images).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_same_bits(*found)


@pytest.mark.parametrize("changed", ["the norm's input", "gamma"])
def test_what_was_overwritten_since_is_refused(changed):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    fused_resnet.fuse(model, recompute=True)
    seen = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    fused_resnet.fuse(model, recompute=True)
    loss = model(torch.randn(2, 3, 6, 6)).sum()
    with torch.no_grad():
        (seen[0] if changed == "the norm's input" else model[2].weight).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_somebody_elses_hooks_have_the_other_tensors(recomputed):
    """Activation checkpointing, offloading."""
    kept, forgotten = make("users", torch.float64, "cpu")
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    ways = [
        lambda model: checkpoint(model, images, use_reentrant=False),
        lambda model: checkpoint(model, images.requires_grad_(), use_reentrant=True),
        lambda model: _offloaded(model, images),
    ]
    for way in ways:
        recomputed.clear()
        found = []
        for model in (kept, forgotten):
            model.zero_grad(set_to_none=True)
            way(model).square().sum().backward()
            found.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert_same_bits(*found)
        assert len(recomputed) == 3


def _offloaded(model, images):
    with torch.autograd.graph.save_on_cpu():
        return model(images)


def test_a_compiled_model_keeps_what_its_compiler_decides():
    model = make("users", torch.float32, "cpu")[1]
    expected = copy.deepcopy(model)
    images = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(results(compiled, images)["dx"], results(expected, images)["dx"], rtol=1e-3, atol=1e-4)


def test_an_older_pytorch_is_refused_and_the_model_left_as_it_is(monkeypatch):
    monkeypatch.delattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
    block = Block()
    with pytest.raises(RuntimeError, match=r"needs PyTorch 2\.8"):
        fused_resnet.fuse(block, recompute=True)
    assert type(block) is Block


class _Storages(TorchDispatchMode):
    """Every storage that is made, for as long as somebody has it."""

    def __init__(self):
        super().__init__()
        self.made = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                self.made.setdefault(StorageWeakRef(storage), storage.nbytes())
        return result


def living_bytes(model, batch):
    """Bytes that a forward leaves behind for its backward, on fake tensors: every shape at full size."""
    state = {StorageWeakRef(t.untyped_storage()) for t in (*model.parameters(), *model.buffers())}
    images = torch.randn(batch, 3, 224, 224)
    with _Storages() as storages:
        loss = model(images).sum()
    living = sum(size for key, size in storages.made.items() if key not in state and not key.expired())
    assert loss.requires_grad
    return living


def test_a_resnet50_training_step_keeps_half_of_what_eager_keeps():
    with FakeTensorMode(), use_strategy("moments"):
        model = torchvision.models.resnet50()
        eager = living_bytes(model, 32)
        fused_resnet.fuse(model)
        tails = living_bytes(model, 32)
        fused_resnet.fuse(model, norms=True)
        norms = living_bytes(model, 32)
        fused_resnet.fuse(model, recompute=True)
        recomputed = living_bytes(model, 32)
    assert tails / eager <= 0.68
    assert norms / eager <= 0.68
    assert recomputed / eager <= 0.49


def test_no_output_outlives_its_reader():
    """Nor does a cycle keep it until the garbage collector comes."""
    conv1, conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3)
    model = nn.Sequential(conv1, nn.BatchNorm2d(4), nn.ReLU(), conv2)
    fused_resnet.fuse(model, recompute=True)
    storages = []
    conv = F.conv2d

    def noting(x, *args):
        storages.append(StorageWeakRef(x.untyped_storage()))
        return conv(x, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", noting)
        loss = model(torch.randn(2, 3, 6, 6)).sum()
    assert len(storages) == 2
    assert storages[1].expired()
    loss.backward()
    del loss
