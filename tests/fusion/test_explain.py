"""`explain` tells what a call takes, why a tail is not fused, and leaves no trace of having looked."""

import copy
import dataclasses
import json
import random

import numpy
import pytest
import torch
from emulated import module_of, only_emulated
from explained import fused_block, images, small_resnet
from torch import Tensor, nn
from user_blocks import SHAPE

import fused_resnet
from benchmarks.emulator import recorded_launches
from fused_resnet import explain, models
from fused_resnet.explanation import TailExplanation
from fused_resnet.functional import Direct, Norm, Projection, residual_tail
from fused_resnet.nn import BasicBlock, PreActBasicBlock
from fused_resnet.operation.synchronisation import ALONE
from fused_resnet.strategy import use_strategy


def torchvision_model(name: str, **options) -> nn.Module:
    pytest.importorskip("benchmarks.torchvision_operators")
    model = getattr(pytest.importorskip("torchvision").models, name)(num_classes=10, **options)
    fused_resnet.fuse(model)
    return model


NETWORKS = {
    "own bottlenecks": small_resnet,
    "own, option D": lambda: small_resnet(shortcut="D"),
    "own, option A": lambda: small_resnet(BasicBlock, shortcut="A"),
    "own, pre-activation": lambda: small_resnet(PreActBasicBlock),
    "own, plain net": lambda: small_resnet(BasicBlock, shortcut="none"),
    "torchvision's resnet18, fused": lambda: torchvision_model("resnet18"),
}
each_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def claimed(tail: TailExplanation) -> tuple[str, list[bool]]:
    """What an explanation says of the same."""
    by = "reference" if tail.backend == "reference" else "kernels"
    branches = [branch for branch in (tail.main, tail.shortcut) if branch is not None]
    return by, [branch.source == "projection" and branch.strategy != "library" for branch in branches]


@each_network
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_explanation_is_what_the_call_takes(network, training, autocast, backend, computed_by):
    model, x = network().train(training), images()
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        explanation = explain(model, x)
        assert computed_by == []
        model(x)
    one_operation = [tail for tail in explanation.tails if tail.forward is not None]
    assert [claimed(tail) for tail in one_operation] == computed_by
    assert all((tail.backward is None) != training for tail in one_operation)
    left_out = [tail.reason for tail in explanation.tails if tail.forward is None]
    assert one_operation
    assert set(left_out) <= {"a plain addition is left to autograd"}


@only_emulated
@pytest.mark.parametrize("strategy", ["moments", "library"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_kernels_are_those_that_are_launched(training, strategy, backend):
    model, x = small_resnet().train(training), images()
    model.layer1[0].conv3.weight.requires_grad_(False)
    with use_strategy(strategy), torch.set_grad_enabled(training):
        explanation = explain(model, x)
        with recorded_launches() as launches:
            y = model(x)
            if training:
                y.sum().backward()
    passes = [own for tail in explanation.tails for own in (tail.forward, tail.backward) if own is not None]
    assert sorted(own.kernel.partition("<")[0] for own in passes) == sorted(launch.kernel for launch in launches)
    assert explanation.tile == module_of(backend).tile


@only_emulated
@pytest.mark.parametrize("projects", [True, False])
def test_kernels_of_shared_statistics_are_those_that_are_launched(projects, backend):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            norm = Norm(process_group=ALONE)
            return residual_tail(Projection(x, self.conv.weight, norm) if projects else Direct(x, norm), Direct(x))

    model, x = Shared(), torch.randn(SHAPE, requires_grad=True)
    (tail,) = explain(model, x).tails
    with recorded_launches() as launches:
        model(x).sum().backward()
    told = f"{tail.forward.kernel} + {tail.backward.kernel}".split(" + ")
    assert [name.partition("<")[0] for name in told] == [launch.kernel for launch in launches]


def test_tail_is_told_with_its_sizes():
    with fused_resnet.use_backend("reference"), use_strategy("moments"):
        (tail,) = explain(fused_block(), torch.randn(SHAPE)).tails
    assert (tail.block, tail.shape, tail.dtype, tail.math) == ("", (4, 8, 4, 4), "float32", "float32")
    rows, main, shortcut = 4 * 4 * 4, tail.main, tail.shortcut
    assert (main.source, main.norm, main.in_channels, main.stride, main.strategy) == (
        ("projection", "training", 8, 1, "moments")
    )
    assert (shortcut.in_channels, shortcut.stride) == (6, 2)
    assert (tail.forward.kernel, tail.backward.kernel) == ("plain PyTorch", "plain PyTorch")
    # Each x twice, y and its mask once; x W^T, x^T x and W Cov W^T.
    assert tail.forward.bytes == 4 * rows * (2 * 8 + 2 * 6 + 8) + rows * 2
    assert tail.forward.operations == 2 * sum(rows * k * 8 + rows * k * k + 8 * k * k for k in (8, 6))


def test_totals_are_sums():
    explanation = explain(small_resnet(), images())
    for direction in ("forward", "backward"):
        each = [getattr(tail, direction) for tail in explanation.tails]
        assert len(each) == 3
        total = explanation.total(direction)
        assert (total.bytes, total.operations) == (sum(p.bytes for p in each), sum(p.operations for p in each))


@only_emulated
def test_math_is_that_of_the_kernels(backend, monkeypatch):
    model, x = small_resnet(), images()
    assert {tail.math for tail in explain(model, x).tails} == {"float32"}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert {(tail.dtype, tail.math) for tail in explain(model, x).tails} == {("float32", "tf32")}
    with torch.autocast("cpu", torch.bfloat16):
        assert {tail.math for tail in explain(model, x).tails} == {"bfloat16"}


def test_gradients_that_nobody_asks_for_are_not_counted():
    model, x = small_resnet(), images()
    whole = explain(model, x).total("backward")
    model.layer1[0].requires_grad_(False)
    model.conv1.requires_grad_(False)
    model.bn1.requires_grad_(False)
    explanation = explain(model, x)
    assert explanation.tails[0].backward is None
    assert explanation.total("backward").bytes < whole.bytes
    with torch.no_grad():
        assert all(tail.backward is None for tail in explain(model, x).tails)


class Marked(nn.Module):
    """Its forward leaves marks of every kind, and may look at values."""

    def __init__(self, looks_at_values: bool) -> None:
        super().__init__()
        self.looks_at_values, self.calls, self.kept = looks_at_values, 0, []
        self.net = small_resnet()
        self.net.bn1.momentum = None if looks_at_values else 0.1
        self.drop = nn.Dropout()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.seen + 1
        self.kept.append(x)
        random.random()
        numpy.random.rand()
        x.mul_(2)
        if self.looks_at_values and x.sum() > 1e9:
            return x
        return self.drop(self.net(x)) + torch.randn(10)


def marks(model, x):
    """All that a call might have changed."""
    hooks = [len(h) for m in model.modules() for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
    return {
        "state": {name: (t.clone(), t._version) for name, t in model.state_dict(keep_vars=True).items()},
        "types": [type(t) for t in (*model.parameters(), *model.buffers())],
        "gradients": [p.grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "attributes": (model.calls, list(model.kept)),
        "hooks": hooks,
        "input": (x.clone(), x._version),
        "generators": (torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()),
        "listener": fused_resnet.functional.listener.value,
    }


@pytest.mark.parametrize("looks_at_values", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_explaining_leaves_no_mark(looks_at_values, training, backend):
    model, x = Marked(looks_at_values).train(training), images()
    before = marks(model, x)
    assert len(explain(model, x).tails) == 3
    after = marks(model, x)
    for name, (value, version) in after["state"].items():
        assert torch.equal(value, before["state"][name][0]), name
        assert version == before["state"][name][1], name
    assert torch.equal(after["input"][0], before["input"][0])
    assert after["input"][1] == before["input"][1]
    assert torch.equal(after["generators"][0], before["generators"][0])
    assert after["generators"][1:] == before["generators"][1:]
    for kind in ("types", "gradients", "modes", "attributes", "hooks", "listener"):
        assert after[kind] == before[kind], kind


def test_model_computes_the_same_bits_after_it_was_explained(backend):
    model, x = small_resnet(), images()
    twin = copy.deepcopy(model)
    explain(model, x)
    assert torch.equal(model(x), twin(x))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


def test_forward_that_looks_at_values_is_explained_all_the_same(backend):
    assert explain(Marked(True), images()).tails == [
        dataclasses.replace(tail) for tail in explain(Marked(False), images()).tails
    ]


def test_errors_of_the_call_are_those_of_the_model():
    with pytest.raises(RuntimeError, match="expected input"):
        explain(small_resnet(), torch.randn(2, 5, 8, 8))
    with pytest.raises(TypeError, match=r"model is a int, expected a torch.nn.Module"):
        explain(3)


def test_batch_that_fits_no_memory_is_explained():
    x = torch.empty(1, 3, 224, 224).expand(1_000_000, -1, -1, -1)
    explanation = explain(small_resnet(), x)
    assert explanation.total("forward").bytes > 2**40


@only_emulated
def test_batch_of_more_pixels_than_the_kernels_take_is_told(backend):
    x = torch.empty(1, 3, 224, 224).expand(100_000, -1, -1, -1)
    first = explain(small_resnet(), x).tails[0]
    assert first.reason == f"{100_000 * 224**2} pixels are more than {2**31 - 2**13}"


def test_compiled_model_is_explained_as_it_is_written():
    pytest.importorskip("torch._dynamo")
    model, x = small_resnet(), images()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    tails = explain(compiled, x).tails
    assert [tail.forward for tail in tails] == [tail.forward for tail in explain(model, x).tails]


def test_explanation_is_plain_data():
    explanation = explain(small_resnet(), images())
    data = json.loads(json.dumps(dataclasses.asdict(explanation)))
    assert [tail["block"] for tail in data["tails"]] == ["layer1.0", "layer1.1", "layer2.0"]
    assert data["tails"][0]["main"]["in_channels"] == 8


class Deep(nn.Module):
    """Names of blocks as long as some libraries have them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.a_model_with_a_long_name = nn.ModuleDict({"encoder_of_the_residual_stages": inner})

    def forward(self, x: Tensor) -> Tensor:
        return self.a_model_with_a_long_name["encoder_of_the_residual_stages"](x)


@pytest.mark.parametrize("training", [True, False])
def test_table_has_a_row_for_each_direction_and_fits_120_columns(training, backend):
    model = Deep(models.resnet50(num_classes=10)).train(training)
    model.a_model_with_a_long_name["encoder_of_the_residual_stages"].layer2[0].fused = False
    x = torch.empty(1, 3, 224, 224).expand(2048, -1, -1, -1)
    with torch.set_grad_enabled(training), use_strategy("library"):
        explanation = explain(model, x)
    lines = str(explanation).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum("layer" in line for line in lines) == 16
    assert sum("  backward  " in line for line in lines) == training
    assert sum("fused is False" in line for line in lines) == 1
    assert any(line.startswith("total") for line in lines)


@only_emulated
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_gradient_that_comes_in_another_layout_is_told_with_its_copy(layout, backend):
    """From the average pool behind the last block, where the network is channels_last."""
    model = models.resnet18(num_classes=10).to(memory_format=layout)
    explanation = explain(model, torch.randn(2, 3, 64, 64).to(memory_format=layout))
    kernels = [tail.backward.kernel for tail in explanation.tails]
    assert [name.endswith(" + copy") for name in kernels] == [False] * 7 + [layout == torch.channels_last]
    # dy, the mask and g in the first phase, g, z and dz in the last, z for the sums; a copy reads and writes once more.
    y = 2 * 512 * 2 * 2 * 4
    assert explanation.tails[-1].backward.bytes == (8 if layout == torch.channels_last else 6) * y + y // 16


@pytest.mark.parametrize(("own", "told"), [(1.0, False), (0.1, True)])
def test_values_tell_where_moments_magnify_rounding(own, told, backend):
    """Which depends on how much of the input's channels is their own."""
    model = fused_block()
    with torch.no_grad():  # rows that take differences
        model.downsample[0].weight -= model.downsample[0].weight.mean(1, keepdim=True)
    x = torch.randn(8, 1, 8, 8) + own * torch.randn(8, 6, 8, 8)
    with use_strategy("moments"):
        assert explain(model, x).tails[0].shortcut.cancellation is None
        explanation = explain(model, x, values=True)
    assert (explanation.tails[0].shortcut.cancellation > 50) == told
    assert ("channels move together" in str(explanation)) == told
    assert not model.bn1.num_batches_tracked
