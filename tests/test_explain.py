"""`explain` tells what a call takes, why a tail is not fused, and leaves no trace of having looked."""

import copy
import dataclasses
import json
import random

import numpy
import pytest
import torch
from emulated import module_of, only_emulated, recorded_launches
from torch import Tensor, nn
from user_blocks import SHAPE, Block

import fused_resnet
from fused_resnet import explain, kernels, models
from fused_resnet.explanation import TailExplanation
from fused_resnet.functional import Direct, Norm, residual_tail
from fused_resnet.nn import BasicBlock, Bottleneck, PreActBasicBlock
from fused_resnet.plain import ReferenceComputation
from fused_resnet.strategy import use_strategy

NOT_FLOAT64 = "torch.float64 is computed by plain PyTorch"


def torchvision_model(name: str, **options) -> nn.Module:
    pytest.importorskip("torchvision_operators")
    model = getattr(pytest.importorskip("torchvision").models, name)(num_classes=10, **options)
    fused_resnet.fuse(model)
    return model


def images(batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size)


def fused_block() -> Block:
    block = Block()
    fused_resnet.fuse(block)
    return block


def small_resnet(block: type[nn.Module] = Bottleneck, **options) -> nn.Module:
    return models.ResNet(block, (2, 1), num_classes=10, width=8, small_images=True, **options)


NETWORKS = {
    "own bottlenecks": small_resnet,
    "own, option D": lambda: small_resnet(shortcut="D"),
    "own, option A": lambda: small_resnet(BasicBlock, shortcut="A"),
    "own, pre-activation": lambda: small_resnet(PreActBasicBlock),
    "own, plain net": lambda: small_resnet(BasicBlock, shortcut="none"),
    "torchvision's resnet18, fused": lambda: torchvision_model("resnet18"),
}
each_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture
def computed(monkeypatch):
    """Of each tail that is computed: "kernels" or "reference", and the strategies of its projections with norms."""
    found = []

    def noting(by, function, of):
        def call(*args, **kwargs):
            found.append((by, [s for s in of(*args).strategies if s != "auto"]))
            return function(*args, **kwargs)

        return call

    forward = ReferenceComputation.forward
    monkeypatch.setattr(ReferenceComputation, "forward", noting("reference", forward, lambda _, tail, *__: tail))
    monkeypatch.setattr(kernels, "forward_call", noting("kernels", kernels.forward_call, lambda _, tail, *__: tail))
    return found


def claimed(tail: TailExplanation) -> tuple[str, list[str]]:
    """What an explanation says of the same."""
    by = "reference" if tail.backend == "reference" else "kernels"
    branches = [branch for branch in (tail.main, tail.shortcut) if branch is not None]
    return by, [branch.strategy for branch in branches if branch.strategy is not None]


def without_running_norms(found: list[tuple[str, list[str]]], training: bool) -> list[tuple[str, list[str]]]:
    """A strategy is settled behind running statistics, too, where it makes no difference to the kernels."""
    return [(by, strategies if training else []) for by, strategies in found]


@each_network
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_explanation_is_what_the_call_takes(network, training, autocast, backend, computed):
    model, x = network().train(training), images()
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        explanation = explain(model, x)
        assert computed == []
        model(x)
    one_operation = [tail for tail in explanation.tails if tail.forward is not None]
    assert [claimed(tail) for tail in one_operation] == without_running_norms(computed, training)
    assert all((tail.backward is None) != training for tail in one_operation)
    left_out = [tail.reason for tail in explanation.tails if tail.forward is None]
    assert one_operation
    assert set(left_out) <= {"a plain addition is left to autograd"}


@only_emulated
@pytest.mark.parametrize("strategy", ["moments", "materialise"])
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
    assert {own.kernel for own in passes} <= module_of(backend).launch_needs().keys()
    assert explanation.tile == module_of(backend).tile


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
    # Each x twice, y once; x W^T, x^T x and W Cov W^T.
    assert tail.forward.bytes == 4 * rows * (2 * 8 + 2 * 6 + 8)
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


def hooked(block):
    block.bn2.register_forward_hook(lambda *_: None)


def exchanged(block):
    block.bn2 = nn.GroupNorm(2, 8)


def attribute(block):
    block.extra = 1
    fused_resnet.fuse(block)
    block.extra = 2


def child_of_another_kind(block):
    block.downsample[0] = nn.Conv2d(6, 8, 3, 2, padding=1)


CHANGES = {
    hooked: "bn2: BatchNorm2d has hooks",
    exchanged: "Block has changed: its children",
    attribute: "Block has changed: extra",
    child_of_another_kind: "downsample.0: 3x3 convolution",
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.items(), ids=[change.__name__ for change in CHANGES])
def test_changed_block_tells_why_it_runs_unfused(change, reason, computed):
    block, x = fused_block().eval(), torch.randn(SHAPE)
    change(block)
    assert explain(nn.Sequential(block), x).tails == [TailExplanation("0", reason)]
    block(x)
    assert not computed


def test_hooks_for_all_modules_are_told():
    block = fused_block()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        (tail,) = explain(block, torch.randn(SHAPE)).tails
    finally:
        handle.remove()
    assert tail.reason == "hooks are registered for all modules of the process"
    assert explain(block, torch.randn(SHAPE)).tails[0].reason is None


def test_another_instance_of_a_fused_class_is_told():
    (tail,) = explain(type(fused_block())(), torch.randn(SHAPE)).tails
    assert tail.reason == "fuse was called on another instance"


def test_calls_that_were_not_traced_are_told():
    class Scaled(Block):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return super().forward(x) * scale

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Scaled()

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.block(x), self.block(x, 2.0), self.block(x, scale=2.0)]

    model = Calls()
    fused_resnet.fuse(model)
    reasons = [tail.reason for tail in explain(model, torch.randn(SHAPE)).tails]
    assert reasons == [
        None,
        "it is called with 2 arguments, and was traced with 1",
        "it is called with keyword arguments",
    ]


def test_own_block_tells_why_it_runs_unfused():
    block, x = Bottleneck(6, 4, 2), torch.randn(SHAPE)
    block.bn3.register_forward_hook(lambda *_: None)
    assert explain(block, x).tails == [TailExplanation("", "bn3: BatchNorm2d has hooks")]
    fused_resnet.unfuse(block)
    assert explain(block, x).tails == [TailExplanation("", "fused is False")]


def test_unfused_model_is_told_what_fuse_would_do():
    model = nn.Sequential(Block(), nn.ReLU())
    explanation = explain(model, torch.randn(SHAPE))
    assert explanation.note == "not fused: call fused_resnet.fuse(model)"
    assert explanation.tails == [
        TailExplanation("0", "fuse would take conv2 + bn2 + downsample.0 + downsample.1 + relu")
    ]
    assert type(model[0]) is Block
    model[0].bn2.register_forward_hook(lambda *_: None)
    reasons = {tail.block: tail.reason for tail in explain(model, torch.randn(SHAPE)).tails}
    assert reasons["0.bn2"] == "fuse would leave it: BatchNorm2d has hooks"


def test_model_without_tails_has_nothing_to_tell():
    assert explain(nn.Linear(3, 3), torch.randn(2, 3)).tails == []


@only_emulated
def test_kernels_tell_what_they_do_not_take(backend):
    block = fused_block().double()
    (tail,) = explain(block, torch.randn(SHAPE).double()).tails
    assert (tail.backend, tail.forward.kernel, tail.reason) == ("reference", "plain PyTorch", NOT_FLOAT64)
    assert tail.backward.kernel == "plain PyTorch"


@only_emulated
def test_norms_that_share_their_buffers_are_told(backend):
    """Their backward updates nothing, and is the kernels'."""
    block = fused_block()
    block.downsample[1].running_mean = block.bn2.running_mean
    (tail,) = explain(block, torch.randn(SHAPE)).tails
    assert tail.reason == "both norms update the same running statistics"
    assert (tail.forward.kernel, tail.backward.kernel) == ("plain PyTorch", "backward<1>")
    with recorded_launches() as launches:
        block(torch.randn(SHAPE)).sum().backward()
    assert [launch.kernel for launch in launches] == ["backward"]


def test_empty_batch_is_told():
    (tail,) = explain(fused_block().eval(), torch.randn(0, 6, 8, 8)).tails
    assert (tail.block, tail.reason, tail.forward) == ("", "the batch is empty", None)


def test_plain_addition_is_told():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x) + x)

    block = Plain()
    assert fused_resnet.fuse(block).fused
    (tail,) = explain(block, torch.randn(SHAPE)).tails
    assert tail.reason == "a plain addition is left to autograd"
    with torch.no_grad():
        (tail,) = explain(block, torch.randn(SHAPE)).tails
    assert tail.reason is None


def test_operands_that_are_refused_are_told():
    class Broadcasting(Block):
        def forward(self, x: Tensor) -> Tensor:
            out, shortcut = self.branches(x)
            return self.relu(out + shortcut.mean((2, 3), keepdim=True))

    block = Broadcasting()
    fused_resnet.fuse(block)
    (tail,) = explain(block, torch.randn(SHAPE)).tails
    assert (tail.block, tail.forward) == ("", None)
    assert tail.reason.startswith("shortcut gives shape (4, 8, 1, 1), expected main's (4, 8, 4, 4)")


def test_tails_outside_of_blocks_are_told():
    class Direct1(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return residual_tail(Direct(a, Norm()), Direct(b))

    explanation = explain(Direct1(), torch.randn(SHAPE), torch.randn(SHAPE))
    assert [tail.block for tail in explanation.tails] == [None]
    assert "(outside of a block)" in str(explanation)


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
    with torch.set_grad_enabled(training), use_strategy("materialise"):
        explanation = explain(model, x)
    lines = str(explanation).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum("layer" in line for line in lines) == 16
    assert sum("  backward  " in line for line in lines) == training
    assert sum("fused is False" in line for line in lines) == 1
    assert any(line.startswith("total") for line in lines)
