"""Saved activations of whole models, counted exactly on fake tensors: every shape at full size, nothing computed."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

import benchmarks.torchvision_operators  # noqa: F401 - before torchvision
import fused_resnet
from fused_resnet import models
from fused_resnet.strategy import use_strategy

torchvision = pytest.importorskip("torchvision")


@pytest.fixture(autouse=True)
def _moments():
    """Convolutions would keep what they write."""
    with use_strategy("moments"):
        yield


def saved_bytes(model: nn.Module, batch: int) -> int:
    """Bytes of the unique storages that a forward saves for its backward, parameters and buffers aside."""
    state = {StorageWeakRef(t.untyped_storage()) for t in (*model.parameters(), *model.buffers())}
    saved: dict[StorageWeakRef, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved.setdefault(StorageWeakRef(storage), storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.randn(batch, 3, 224, 224))
    return sum(storage.nbytes() for key, storage in saved.items() if key not in state)


def test_a_resnet50_training_step_saves_two_thirds():
    with FakeTensorMode():
        model = torchvision.models.resnet50()
        standard = saved_bytes(model, 32)
        fused_resnet.fuse(model, strict=True)
        fused = saved_bytes(model, 32)
    assert round(standard / 32 / 1e6, 1) == 85.9  # MB an image
    assert fused / standard <= 0.68


@pytest.mark.parametrize(("batch", "share"), [(1, 0.85), (256, 0.67)])
def test_plain_pytorch_saves_as_much_where_rows_are_many(batch, share):
    with FakeTensorMode(), use_strategy("auto"), fused_resnet.use_backend("reference"):
        model = torchvision.models.resnet50()
        standard = saved_bytes(model, batch)
        fused_resnet.fuse(model)
        assert round(saved_bytes(model, batch) / standard, 2) == share


@pytest.mark.parametrize(("name", "at_most"), [("resnet18", 0.97), ("resnet152", 0.68), ("wide_resnet50_2", 0.76)])
def test_other_models_save_less_too(name, at_most):
    with FakeTensorMode():
        model = getattr(torchvision.models, name)()
        standard = saved_bytes(model, 32)
        fused_resnet.fuse(model, strict=True)
        assert saved_bytes(model, 32) / standard <= at_most


def test_own_models_save_what_torchvisions_do():
    with FakeTensorMode():
        theirs = torchvision.models.resnet50()
        assert saved_bytes(models.resnet50(fused=False), 8) == saved_bytes(theirs, 8)
        fused_resnet.fuse(theirs)
        assert saved_bytes(models.resnet50(), 8) == saved_bytes(theirs, 8)
