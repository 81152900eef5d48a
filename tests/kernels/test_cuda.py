"""Tails and training steps on a GPU: in graphs, on other streams and devices, without a wait, in PyTorch's memory."""

import copy
import os
import pathlib
import runpy

import pytest
import torch
import torch.nn.functional as F
from late_tails import MODES, LateTail
from small_nets import NETS, assert_alike, assert_close, make_nets

import fused_resnet
from fused_resnet.functional import Norm, Projection, residual_tail
from fused_resnet.strategy import use_strategy

pytestmark = pytest.mark.skipif(fused_resnet.available_backends()["cuda"] is not None, reason="needs a GPU")
WARM_UP = 3
# Longer than any test's queued work takes: what does not wait for it is seen to be too early.
DELAY_CYCLES = 100_000_000
DTYPES = {"float32": None, "autocast to bfloat16": torch.bfloat16}


@pytest.fixture(autouse=True)
def _deterministic_convolutions(monkeypatch):
    """As far as PyTorch can; the kernels are in any case."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


@pytest.fixture(params=NETS)
def nets(request):
    with fused_resnet.use_backend("cuda"):
        yield make_nets(request.param, torch.float32, "cuda")


class Trainer:
    """A network, its optimizer, and memory of its own for a batch."""

    def __init__(self, nets, dtype=None, device="cuda"):
        self.model = copy.deepcopy(nets.fused).to(device)
        self.device, self.dtype = device, dtype
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        images, labels = nets.batch()
        self.images, self.labels = images.to(device), labels.to(device)
        self.loss = None

    def fill(self, nets, seed):
        images, labels = nets.batch(seed)
        self.images.copy_(images)
        self.labels.copy_(labels)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", self.dtype, enabled=self.dtype is not None):
            logits = self.model(self.images)
        self.loss = F.cross_entropy(logits.float(), self.labels)
        self.loss.backward()
        self.optimizer.step()

    def state(self):
        gradients = {f"gradient of {name}": p.grad.clone() for name, p in self.model.named_parameters()}
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        return {"loss": self.loss.detach().clone(), **gradients, **state}


def assert_same_state(found, expected):
    """Up to the order of sums in the libraries around the kernels, which may depend on the memory that they get."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(name, found[name], value, 1e-4)


def on_side_stream(function):
    """Runs a function on a stream of its own, which waits for the current one and is waited for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = function()
    torch.cuda.current_stream().wait_stream(stream)
    return result


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def given(request):
    """A tail in each mode."""
    return LateTail.of(request.param, "cuda", torch.bfloat16, batch=8, size=14)


@pytest.fixture
def _forced():
    with fused_resnet.use_backend("cuda"), use_strategy("moments"):
        yield


def assert_same_results(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(name, found[name], value, 1.5e-2)


@pytest.mark.usefixtures("_forced")
def test_a_tail_on_a_side_stream_waits_for_what_is_queued_there(given):
    """What is given comes late, on that stream: a kernel on another one would not wait for it."""
    expected, late, tested = given.results(given.copied()), given.zeroed(), given.copied()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(DELAY_CYCLES)
        late.fill(given)
        results = late.results(tested)
    stream.synchronize()
    assert_same_results(results, expected)


@pytest.mark.usefixtures("_forced")
def test_a_captured_tail_computes_at_the_replay(given):
    """Captured on zeros, replayed on what is given."""
    expected, held, tested = given.results(given.copied()), given.zeroed(), given.copied()
    on_side_stream(lambda: held.results(tested))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = held.results(tested)
    tested.load_state_dict(given.tail.state_dict())
    held.fill(given)
    graph.replay()
    torch.cuda.synchronize()
    assert_same_results(results, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_captured_training_step_replays_as_eager_steps(nets, dtype):
    """PyTorch's recipe: warm-up on a side stream, capture, then new batches in the memory of the first."""
    captured, eager = Trainer(nets, DTYPES[dtype]), Trainer(nets, DTYPES[dtype])

    def warm_up():
        for _ in range(WARM_UP):
            captured.step()

    on_side_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    captured.optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        captured.step()
    for _ in range(WARM_UP):
        eager.step()
    for seed in range(1, 4):
        captured.fill(nets, seed)
        graph.replay()
        eager.fill(nets, seed)
        eager.step()
        assert_same_state(captured.state(), eager.state())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_resnet50_step_is_captured_as_the_example_does(dtype):
    example = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "examples" / "cuda_graph.py"))
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3, 64, 64).cuda(), torch.randint(10, (4,)).cuda()) for _ in range(4)]
    with fused_resnet.use_backend("cuda"):
        model = fused_resnet.models.resnet50(num_classes=10).cuda()
        twin = copy.deepcopy(model)
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, twin)]
        captured = example["CapturedStep"](model, optimizers[0], *batches[0], DTYPES[dtype])
        for images, labels in [batches[0]] * WARM_UP + batches[1:]:
            optimizers[1].zero_grad(set_to_none=True)
            with torch.autocast("cuda", DTYPES[dtype], enabled=DTYPES[dtype] is not None):
                loss = F.cross_entropy(twin(images), labels)
            loss.backward()
            optimizers[1].step()
        for images, labels in batches[1:]:
            replayed = captured(images, labels)
    assert_close("loss", replayed, loss.detach(), 1e-2)


def test_a_network_is_captured_by_make_graphed_callables(nets):
    """As Megatron and others do: forward and backward each a graph, between which eager code runs."""
    graphed, eager = Trainer(nets), Trainer(nets)
    graphed.model = torch.cuda.make_graphed_callables(graphed.model, (graphed.images.clone(),))
    eager.model.load_state_dict(graphed.model.state_dict())  # warm-up has moved running statistics
    for seed in range(1, 3):
        for trainer in (graphed, eager):
            trainer.fill(nets, seed)
            trainer.step()
    assert_alike(graphed.model, eager.model, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_training_step_never_waits_for_the_gpu(nets, dtype):
    trainer = Trainer(nets, DTYPES[dtype])
    trainer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step()
        with torch.no_grad():
            trainer.model.eval()(trainer.images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_training_step_on_a_side_stream_gives_the_same(nets):
    expected, tested = Trainer(nets), Trainer(nets)
    expected.step()

    def late_step():
        tested.fill(nets, 0)
        tested.step()
        return tested.state()

    tested.images.zero_()
    assert_same_state(on_side_stream(late_step), expected.state())


def test_networks_on_two_streams_do_not_disturb_each_other(nets):
    expected = []
    for seed in range(2):
        alone = Trainer(nets)
        alone.fill(nets, seed)
        alone.step()
        expected.append(alone.state())
    torch.cuda.synchronize()
    trainers, streams = [Trainer(nets), Trainer(nets)], [torch.cuda.Stream(), torch.cuda.Stream()]
    for seed, trainer in enumerate(trainers):
        trainer.fill(nets, seed)
    torch.cuda.synchronize()
    for trainer, stream in zip(trainers, streams, strict=True):
        with torch.cuda.stream(stream):
            trainer.step()
    torch.cuda.synchronize()
    for trainer, state in zip(trainers, expected, strict=True):
        assert_same_state(trainer.state(), state)


def test_a_network_on_the_second_gpu_while_the_first_is_current(nets):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    first, second = Trainer(nets), Trainer(nets, device="cuda:1")
    for trainer in (first, second):
        trainer.step()
    assert torch.cuda.current_device() == 0
    found = second.state()
    assert {value.device for value in found.values()} == {torch.device("cuda:1")}
    # The same kernels in the same order; but GPUs of two kinds may choose different convolutions.
    for name, value in first.state().items():
        torch.testing.assert_close(found[name].to("cuda:0"), value, rtol=1e-4, atol=1e-5, msg=name)


def test_steps_leave_no_memory_behind(nets):
    trainer = Trainer(nets)
    allocated = []
    for _ in range(4):
        trainer.step()
        torch.cuda.synchronize()
        allocated.append(torch.cuda.memory_allocated())
    assert allocated[1:] == allocated[1:2] * 3


@pytest.mark.skipif(
    int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)) > 1, reason="other processes take memory of the GPU meanwhile"
)
def test_the_kernels_memory_is_the_caching_allocators():
    """What the device has lent beside it does not grow with the batch, whose partial sums alone take over 10 MB."""

    def step(batch):
        x, before = (torch.randn(batch, 512, 28, 28, device="cuda", requires_grad=True) for _ in range(2))
        weights = [torch.randn(512, 512, 1, 1, device="cuda", requires_grad=True) for _ in range(2)]
        main, shortcut = (Projection(t, w, Norm()) for t, w in zip((x, before), weights, strict=True))
        y = residual_tail(main, shortcut)
        y.backward(torch.ones_like(y))
        torch.cuda.synchronize()

    def beside_the_allocator():
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    with fused_resnet.use_backend("cuda"):
        step(2)
        first = beside_the_allocator()
        for batch in (8, 64):
            step(batch)
    assert beside_the_allocator() <= first + 4 * 2**20  # kernels are loaded when they are first called
