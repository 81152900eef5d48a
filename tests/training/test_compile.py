"""`torch.compile` takes a fused network as one graph in which each tail is one operation."""

import copy
from collections.abc import Callable

import pytest
import torch
from compare import fused
from compilers import needs_whole_graphs
from samples import FUSED, SAMPLES, build
from torch import nn

import fused_resnet
from fused_resnet import models
from fused_resnet.functional import Direct, Norm, Projection, residual_tail
from fused_resnet.strategy import use_strategy

dynamo = pytest.importorskip("torch._dynamo")
pytestmark = needs_whole_graphs


@pytest.fixture(autouse=True)
def _moments():
    """Whatever the sizes are: by itself, plain PyTorch convolves few rows of many channels."""
    with use_strategy("moments"):
        yield


@pytest.fixture(autouse=True)
def _nothing_compiled():
    dynamo.reset()
    yield
    dynamo.reset()


class Graphs:
    """A compiler backend that keeps the graphs which it is given, and runs them by AOTAutograd."""

    def __init__(self):
        self.seen = []

    def __call__(self, graph, example_inputs):
        self.seen.append(graph)
        return dynamo.lookup_backend("aot_eager")(graph, example_inputs)

    def tails(self) -> list[int]:
        """How many tails each graph has."""
        return [sum("fused_resnet" in str(node.target) for node in graph.graph.nodes) for graph in self.seen]


def torchvision_model(name: str, **options) -> nn.Module:
    pytest.importorskip("benchmarks.torchvision_operators")
    model = getattr(pytest.importorskip("torchvision").models, name)(**options)
    fused_resnet.fuse(model)
    return model


NETWORKS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "own resnet18": (models.resnet18, 8),
    "torchvision's resnet18, fused": (lambda **options: torchvision_model("resnet18", **options), 8),
    "own resnet50": (models.resnet50, 16),
    "torchvision's resnet50, fused": (lambda **options: torchvision_model("resnet50", **options), 16),
}


each_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("resnet50" in name)) for name in NETWORKS]
)


def norms_in_tails(model: nn.Module) -> list[nn.BatchNorm2d]:
    last = "bn3" if any(name.endswith("bn3") for name, _ in model.named_modules()) else "bn2"
    return [module for name, module in model.named_modules() if name.endswith((last, "downsample.1"))]


def images(batch: int) -> torch.Tensor:
    x = torch.randn(batch, 3, 32, 32)
    dynamo.mark_dynamic(x, 0)
    return x


def step(model: nn.Module, run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Output of a training step that leaves gradients."""
    model.zero_grad()
    y = run(x)
    y.square().mean().backward()
    return y.detach()


def assert_same_state(model: nn.Module, other: nn.Module) -> None:
    """Buffers and gradients."""
    for (name, buffer), expected in zip(model.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)
    for (name, parameter), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, msg=name)


@each_network
def test_training_is_one_graph_for_all_batch_sizes(name):
    make, tails = NETWORKS[name]
    model = make(num_classes=10)
    for norm in norms_in_tails(model)[::2]:  # of one outside a tail, PyTorch's own would break the graph
        norm.momentum = None
    expected, graphs = copy.deepcopy(model), Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    for i, batch in enumerate((4, 6, 5)):
        x = images(batch)
        with dynamo.config.patch(error_on_recompile=i > 0):
            y = step(model, compiled, x)
        torch.testing.assert_close(y, step(expected, expected, x))
        assert_same_state(model, expected)
    assert graphs.tails() == [tails]


@each_network
def test_evaluation_is_one_graph_for_all_batch_sizes(name):
    make, tails = NETWORKS[name]
    model, graphs = make(num_classes=10).eval(), Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    for i, batch in enumerate((4, 6, 5)):
        x = images(batch)
        with torch.no_grad(), dynamo.config.patch(error_on_recompile=i > 0):
            torch.testing.assert_close(compiled(x), model(x))
    assert graphs.tails() == [tails]


def test_cumulative_averages_of_every_norm_are_one_graph(device):
    """pytorch issue 194504: ``momentum=None`` under the compiler."""
    tail, inputs, _ = build(SAMPLES["cumulative averages"], device)
    expected, graphs = copy.deepcopy(tail), Graphs()
    compiled = torch.compile(tail.fused, fullgraph=True, backend=graphs)
    for i in range(3):
        with dynamo.config.patch(error_on_recompile=i > 0):
            torch.testing.assert_close(compiled(inputs), expected.fused(inputs))
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(tail.get_buffer(name), buffer, msg=name)
    assert graphs.tails() == [1]


@pytest.mark.parametrize("sample", FUSED.values(), ids=FUSED)
def test_every_tail_compiles_with_its_gradients(sample, device):
    tail, inputs, dy = build(sample, device)
    expected, graphs = fused(tail, inputs, dy), Graphs()
    tail = copy.deepcopy(tail)
    y = torch.compile(tail.fused, fullgraph=True, backend=graphs)(inputs)
    sources = {n: t for n, t in (*inputs.items(), *tail.named_parameters()) if t.requires_grad}
    gradients = torch.autograd.grad(y, list(sources.values()), dy)
    torch.testing.assert_close(y, expected.output)
    assert y.stride() == expected.output.stride()
    for name, gradient in zip(sources, gradients, strict=True):
        torch.testing.assert_close(gradient, expected.gradients[name], msg=name)
    for name, buffer in tail.named_buffers():
        torch.testing.assert_close(buffer, expected.buffers[name], msg=name)
    assert graphs.tails() == [1]


def test_freezing_and_thawing_are_noticed(device):
    """Each is a graph of its own, compiled when it is met."""
    tail, inputs, _ = build(SAMPLES["bottleneck projection"], device)
    expected, compiled = copy.deepcopy(tail), torch.compile(tail.fused, fullgraph=True, backend=Graphs())
    for training in (True, False, True):
        tail.train(training)
        expected.train(training)
        torch.testing.assert_close(compiled(inputs), expected.fused(inputs))
        for name, buffer in expected.named_buffers():
            torch.testing.assert_close(tail.get_buffer(name), buffer, msg=name)


def test_autocast_is_part_of_the_graph(device):
    tail, inputs, _ = build(SAMPLES["bottleneck projection"], device)
    expected, graphs = copy.deepcopy(tail), Graphs()

    def run(tail, inputs):
        with torch.autocast(device, torch.bfloat16):
            return tail.fused(inputs)

    y = torch.compile(run, fullgraph=True, backend=graphs)(tail, inputs)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, run(expected, inputs))
    assert graphs.tails() == [1]


@pytest.mark.slow
@pytest.mark.covers
def test_default_compiler_trains_a_network(device):
    """Code for this machine is generated around the tails."""
    model = models.cifar_resnet(8, shortcut="B")
    expected = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(4, 3, 16, 16)
    for _ in range(2):
        torch.testing.assert_close(step(model, compiled, x), step(expected, expected, x), rtol=1e-4, atol=1e-5)
    for (name, buffer), other in zip(model.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name, rtol=1e-4, atol=1e-5)


def convolutions(graphs: Graphs) -> int:
    return sum("conv2d" in str(node.target) for graph in graphs.seen for node in graph.graph.nodes)


def small_tail():
    """A tail of 17 input channels: plain PyTorch convolves where it has fewer than 136 rows."""
    conv, norm = nn.Conv2d(17, 24, 1, bias=False), Norm(torch.ones(24), torch.zeros(24))
    return lambda x, shortcut: residual_tail(Projection(x, conv.weight, norm), Direct(shortcut))


@pytest.mark.parametrize(("batches", "convolved"), [((2, 9, 3), 1), ((64, 9, 65), 0)])
def test_the_first_call_decides_and_another_batch_is_no_new_graph(batches, convolved):
    tail, graphs = small_tail(), Graphs()
    compiled = torch.compile(tail, fullgraph=True, backend=graphs)
    with use_strategy("auto"), fused_resnet.use_backend("reference"):
        for i, batch in enumerate(batches):
            inputs = torch.randn(batch, 17, 2, 2), torch.randn(batch, 24, 2, 2)
            for x in inputs:
                dynamo.mark_dynamic(x, 0)
            with dynamo.config.patch(error_on_recompile=i > 0):
                torch.testing.assert_close(compiled(*inputs), tail(*inputs))
    assert graphs.tails() == [1]
    assert convolutions(graphs) == convolved


def test_exported_projections_take_moments():
    """A program is for any machine and any batch."""

    class Tail(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(17, 24, 1, bias=False), nn.BatchNorm2d(24)

        def forward(self, x, shortcut):
            norm = Norm(self.norm.weight, self.norm.bias)
            return residual_tail(Projection(x, self.conv.weight, norm), Direct(shortcut))

    with use_strategy("auto"):
        for strict in (True, False):
            program = torch.export.export(Tail(), (torch.randn(2, 17, 2, 2), torch.randn(2, 24, 2, 2)), strict=strict)
            assert not any("aten.conv" in str(node.target) for node in program.graph.nodes)
