"""The benchmark ``tail``: what is counted, checked, rotated, noted and drawn. No test looks at a time."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import options, result
from benchmarks.__main__ import main
from benchmarks.clocks import CpuClock, Sample
from benchmarks.errors import EXTRA
from benchmarks.tail import cudnn_graph, folded, kernels, measure, plan, ways
from benchmarks.tail.ceilings import Ceilings, measure_ceilings
from benchmarks.tail.counts import counted
from benchmarks.tail.modes import MODES
from benchmarks.tail.passes import watch
from benchmarks.tail.rotation import Case, Rotation, cache_bytes, copies_for
from benchmarks.tail.work import Work, compulsory
from benchmarks.tail_shapes import NETWORKS, RESNET18, RESNET50, TailShape, distinct
from benchmarks.tails import Tail, counted_bytes

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks.tail import caption, draw, headline  # noqa: E402

CPU = torch.device("cpu")
SMALL = RESNET50[1].shrunk(2, 5, 16)
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


# What is counted


@pytest.mark.parametrize(
    ("shape", "forward", "both"),
    [
        (RESNET50[0], Fraction(27, 2), Fraction(27, 2) + 18),
        (RESNET50[1], Fraction(37, 4), Fraction(37, 4) + Fraction(21, 2)),
        (RESNET50[2], Fraction(55, 4), Fraction(55, 4) + 20),
        (RESNET50[4], Fraction(55, 4), Fraction(55, 4) + 20),
    ],
    ids=lambda value: value.name if isinstance(value, TailShape) else str(value),
)
def test_eager_traffic_of_resnet50(shape: TailShape, forward: Fraction, both: Fraction) -> None:
    """In units of the output's size, as README.md and docs/design.md have it."""
    assert in_outputs("eager", shape, "training") == forward
    assert in_outputs("eager", shape, "training+backward") == both
    assert in_outputs("eager-contiguous", shape, "training+backward") == both


@pytest.mark.parametrize(("index", "both"), [(0, 15), (1, Fraction(59, 4)), (2, Fraction(71, 4))])
def test_traffic_with_the_last_convolution_apart(index: int, both: Fraction) -> None:
    assert in_outputs("conv3-apart", RESNET50[index], "training+backward") == both


def in_outputs(way: str, shape: TailShape, mode: str) -> Fraction:
    count = counted(way, shape, MODES[mode], torch.bfloat16)
    assert count is not None
    return Fraction(count.bytes, shape.rows * shape.channels * 2)


@each_mode
def test_fused_traffic_is_that_of_the_kernels(mode: Any) -> None:
    for strategy in ("moments", "materialise"):
        count = counted(strategy, RESNET50[2], mode, torch.bfloat16)
        assert count is not None
        assert count.bytes == counted_bytes(RESNET50[2], mode.training, [strategy] * 2, 2, mode.backward)  # type: ignore[list-item]
        assert count.launches == 1 + mode.backward


@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tail_can_be_counted(mode: Any, dtype: torch.dtype) -> None:
    for tail in distinct(NETWORKS):
        fused, eager = (counted(way, tail.shape, mode, dtype) for way in ("fused", "eager"))
        assert fused is not None
        assert eager is not None
        assert fused.bytes < eager.bytes
        assert compulsory(tail.shape, mode, dtype.itemsize).bytes > 0
    assert counted("compile", SMALL, mode, dtype) is None


@each_mode
def test_eager_products_are_two_operations_a_multiply_add(mode: Any) -> None:
    shape = RESNET50[2]
    products = sum(2 * shape.rows * k * shape.channels for k in (128, 256))
    count = counted("eager", shape, mode, torch.bfloat16)
    assert count is not None
    assert count.operations == products * (3 if mode.backward else 1)


def test_operators_are_counted_one_by_one() -> None:
    x = torch.empty(2, 3, 4, 4, device="meta")
    watched = watch(lambda: (x.add_(x), x.relu_(), x[:, :2]))
    assert (watched.operators, watched.elements) == (2, (3 + 2) * 96)
    launches = {mode: counted("eager", RESNET18[1], MODES[mode], torch.float32) for mode in ("eval", "eval+backward")}
    # A convolution, two norms, an addition, a relu; in backward, the addition does nothing.
    assert [count and count.launches for count in launches.values()] == [5, 9]


def test_an_operator_without_declared_passes_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="the operator is exp, expected one whose passes are declared: convolution,"):
        watch(lambda: torch.empty(2, device="meta").exp())


def test_eager_operators_are_those_that_run() -> None:
    """What is counted on shapes alone is what a CPU dispatches."""
    for mode in MODES.values():
        tail = Tail(SMALL, torch.float32).train(mode.training)
        x, before = (t.requires_grad_(mode.grad_enabled) for t in tail.inputs("cpu", torch.float32))

        def call(tail: Tail = tail, x: Tensor = x, before: Tensor = before, backward: bool = mode.backward) -> None:
            y = tail(x, before)
            if backward:
                tail.gradients(y, (x, before), torch.empty_like(y))

        with torch.set_grad_enabled(mode.grad_enabled):
            watched = watch(call)
        count = counted("eager", SMALL, mode, torch.float32)
        assert count is not None
        assert (watched.elements * 4, watched.operators) == (count.bytes, count.launches)


@pytest.mark.parametrize(
    ("names", "expected"), [(["gemm", "Memcpy DtoD", "norm", "Memset"], 2), ([], None), (["Memset"], None)]
)
def test_launches_are_the_kernels_that_the_profiler_saw(
    names: list[str], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [SimpleNamespace(name=name, device_type=kernels.DeviceType.CUDA) for name in names]
    events.append(SimpleNamespace(name="cudaLaunchKernel", device_type=kernels.DeviceType.CPU))
    seen = nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(kernels, "profile", lambda **_: seen)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    calls: list[None] = []
    assert kernels.launched_kernels(lambda: calls.append(None)) == expected
    assert len(calls) == 1


def test_compulsory_work_is_every_tensor_once() -> None:
    shape = TailShape("net", "layer2.0", 1, 4, inner=3, channels=10, before=5, stride=2, batch=2)
    rows = 2 * 4 * 4
    forward, both = (compulsory(shape, MODES[name], 2) for name in ("eval", "eval+backward"))
    assert forward.bytes == 2 * (rows * (3 + 5 + 10) + (3 + 5) * 10)
    # dy is read; of the strided input all pixels have a gradient.
    assert both.bytes - forward.bytes == 2 * (rows * (10 + 3 + 4 * 5) + (3 + 5) * 10)
    products = 2 * rows * (3 + 5) * 10
    assert forward.operations == products + (2 * 2 + 2) * rows * 10
    assert both.operations == 3 * products + (2 * 2 + 2 + 2 * 4 + 1) * rows * 10


def test_the_roofline_takes_what_is_slower() -> None:
    ceilings = Ceilings(bytes_per_s=10.0, operations_per_s=100.0)
    assert ceilings.ridge == 10.0
    assert Work(bytes=20, operations=100).seconds(ceilings) == 2.0
    assert Work(bytes=20, operations=1000).seconds(ceilings) == 10.0


def test_ceilings_are_of_the_quickest_copy_and_of_the_quickest_product_by_either_library() -> None:
    copies, products, convolutions = [0.5, 0.25], [0.5, 2.0], [0.75, 0.125]
    seconds = iter([s for two in (copies, products, convolutions) for s in (*two, *[1.0] * 8)])
    found = measure_ceilings(CPU, torch.float32, lambda call: Sample(next(seconds), 0.0), quick=True)
    assert found == Ceilings(2 * 2**24 / 0.25, 2 * 256**3 / 0.125)


# Inputs


def test_every_call_takes_the_next_copy() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    rotation = Rotation(Case(x, x, None), torch.channels_last, copies=3)
    taken = [rotation() for _ in range(6)]
    assert taken[:3] == taken[3:]
    assert len({case.x.data_ptr() for case in taken}) == 3
    for case in taken:
        assert torch.equal(case.x, x)
        assert case.x.requires_grad
        assert case.x.is_contiguous(memory_format=torch.channels_last)


def test_copies_exceed_the_cache_and_fit_the_memory() -> None:
    assert copies_for(10, cache_bytes=100) == 20
    assert copies_for(1000, cache_bytes=100) == 2
    assert copies_for(10, cache_bytes=100, most_bytes=50) == 5
    assert cache_bytes(CPU) >= 2**16


# Values


def conditions(dtype: torch.dtype = torch.float32) -> measure.Conditions:
    return measure.Conditions(CPU, dtype, lambda _: CpuClock(), cache_bytes=2**12, runs=2, warm_up=1)


@each_mode
def test_all_ways_compute_the_same(mode: Any) -> None:
    names = [name for name, way in ways.WAYS.items() if not way.turn]
    outcome = measure.measure_tail(SMALL, mode, names, conditions())
    assert (outcome.wrong, outcome.failed) == ({}, {})
    expected = ["fused", "eager", "eager-contiguous", *(["moments", "materialise"] * mode.training), "conv3-apart"]
    assert list(outcome.measured) == expected
    assert all(measured.error < 1e-5 for measured in outcome.measured.values())
    assert outcome.impossible.keys() >= {"cudnn-fused", "cudnn-graph"}


@pytest.mark.parametrize("mode", ["training", "training+backward"])
def test_a_wrong_way_is_not_timed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = Tail.fused

    def wrong(self: Tail, x: Tensor, before: Tensor) -> Tensor:
        if mode == "training":
            return fused(self, x, before) * float("nan")
        return fused(self, x, before + 0.1 * (before - before.detach()))  # the gradient alone

    monkeypatch.setattr(Tail, "fused", wrong)
    outcome = measure.measure_tail(SMALL, MODES[mode], ["fused", "eager"], conditions())
    assert list(outcome.measured) == ["eager"]
    assert list(outcome.wrong) == ["fused"]


def test_a_way_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    outcome = measure.measure_tail(SMALL, MODES["eval"], ["fused", "eager", "compile"], conditions())
    assert list(outcome.measured) == ["fused", "eager"]
    assert outcome.failed == {"compile": "RuntimeError: no C++ compiler"}


def test_backward_is_to_both_inputs_and_all_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients, computed = Tail.gradients, []

    def recorded(self: Tail, *arguments: Any) -> dict[str, Tensor]:
        found = gradients(self, *arguments)
        computed.append(set(found))
        return found

    monkeypatch.setattr(Tail, "gradients", recorded)
    measure.measure_tail(SMALL, MODES["eval+backward"], ["fused", "eager"], conditions())
    assert set(map(frozenset, computed)) == {
        frozenset({"x", "before", "conv.weight", "norm.weight", "norm.bias"}),
    }


@pytest.mark.parametrize("index", [1, 2])
def test_folded_norms_are_those_of_evaluation(index: int) -> None:
    tail = Tail(RESNET50[index].shrunk(2, 5, 16), torch.float32).eval()
    x, before = tail.inputs("cpu", torch.float32)
    assert tail.conv is not None
    weight, bias = folded.fold(tail.conv, tail.norm)
    with torch.no_grad():
        y = torch.relu(torch.conv2d(x, weight, bias) + ways._addend(tail)(before))
        torch.testing.assert_close(y, tail(x, before))


@pytest.mark.parametrize(
    ("shape", "mode", "reason"),
    [
        (SMALL, "training", "in evaluation alone"),
        (SMALL, "eval+backward", "without backward"),
        (RESNET18[0].shrunk(2, 5, 16), "eval", "no projection ends the main branch"),
        (SMALL, "eval", "cuDNN needs a GPU"),
    ],
)
@pytest.mark.parametrize("way", ["cudnn-fused", "cudnn-graph"])
def test_ways_that_there_are_not_say_why(way: str, shape: TailShape, mode: str, reason: str) -> None:
    tail = Tail(shape, torch.float32).train(MODES[mode].training)
    with pytest.raises(ways.ImpossibleError, match=reason):
        ways.WAYS[way].prepare(tail, MODES[mode])


def test_cudnn_frontend_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("no cudnn")

    monkeypatch.setattr(ways, "_check_cudnn", lambda *_: None)
    monkeypatch.setattr(cudnn_graph, "load", missing)
    with pytest.raises(ways.ImpossibleError, match="nvidia-cudnn-frontend is not installed"):
        ways.WAYS["cudnn-graph"].prepare(Tail(SMALL, torch.float32).eval(), MODES["eval"])


class FakeNode:
    """A tensor of a graph: what it is, from the given ones."""

    def __init__(self, value: Callable[[dict[Any, Tensor]], Tensor]) -> None:
        self.value = value

    def set_output(self, _: bool) -> FakeNode:
        return self

    def set_data_type(self, _: object) -> FakeNode:
        return self


class FakeGraph:
    """As much of cuDNN's graphs as is used, computed by PyTorch when it is executed."""

    def __init__(self, **_: object) -> None:
        self.output: FakeNode

    def tensor_like(self, tensor: Tensor) -> FakeNode:
        node = FakeNode(lambda given: given[node])
        return node

    def conv_fprop(self, *, image: FakeNode, weight: FakeNode, **sizes: list[int]) -> FakeNode:
        return FakeNode(lambda given: torch.conv2d(image.value(given), weight.value(given), None, **sizes))  # type: ignore[call-overload]

    def mul(self, *, a: FakeNode, b: FakeNode) -> FakeNode:
        return FakeNode(lambda given: a.value(given) * b.value(given))

    def add(self, *, a: FakeNode, b: FakeNode) -> FakeNode:
        return FakeNode(lambda given: a.value(given) + b.value(given))

    def relu(self, *, input: FakeNode) -> FakeNode:
        self.output = FakeNode(lambda given: input.value(given).relu())
        return self.output

    def build(self, _: object) -> None:
        pass

    def get_workspace_size(self) -> int:
        return 0

    def execute(self, given: dict[Any, Tensor], _: Tensor, *, handle: object) -> None:
        given[self.output].copy_(self.output.value(given))


@pytest.mark.parametrize("index", [1, 2])
def test_cudnn_graph_is_the_tail(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its operations, as cuDNN itself needs a GPU."""
    data_type = SimpleNamespace(FLOAT="float", HALF="half", BFLOAT16="bfloat16")
    fake = SimpleNamespace(
        create_handle=lambda: "handle",
        set_stream=lambda **_: None,
        pygraph=FakeGraph,
        data_type=data_type,
        heur_mode=SimpleNamespace(A="a", FALLBACK="fallback"),
    )
    monkeypatch.setattr(cudnn_graph, "load", lambda: fake)
    monkeypatch.setattr(ways, "_check_cudnn", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
    tail = Tail(RESNET50[index].shrunk(2, 5, 16), torch.float32).eval()
    inputs = tail.inputs("cpu", torch.float32)
    with torch.no_grad():
        forward = ways.WAYS["cudnn-graph"].prepare(tail, MODES["eval"])
        for _ in range(2):  # built by the first call
            torch.testing.assert_close(forward(*inputs), tail(*inputs))


# The command


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser, quick="")
    plan.add_arguments(parser)
    return parser.parse_args(arguments)


def test_a_run_is_all_tails_without_compilers_and_then_with_them() -> None:
    some = parsed("--networks", "resnet18", "--peers", "compile-max-autotune,compile,eager", "--modes", "eval")
    turns = plan.plan_of(some, CPU, torch.float32).items[::7]
    assert [item.ways[2:] for item in turns] == [(), ("compile",), ("compile-max-autotune", "compile")]
    items = plan.plan_of(parsed("--networks", "resnet18,resnet34", "--modes", "eval"), CPU, torch.float32).items
    assert [item.turn for item in items] == [0] * 7 + [1] * 7
    assert items[0].ways == ("fused", "eager", "eager-contiguous")
    assert items[7].ways == ("fused", "eager", "eager-contiguous", "compile")
    assert items[0].tail.shape.batch == 4
    assert len(plan.plan_of(parsed("--peers", "eager"), CPU, torch.float32).items) == 30 * 4


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--networks", "resnet51", "is resnet51, expected some of resnet50,"),
        ("--modes", "evaluation", "is evaluation, expected some of training,"),
        ("--peers", "fused", "is fused, expected some of eager,"),
        ("--runs", "1", "is 1, expected at least 2"),
        ("--batch", "0", "is 0, expected at least 1"),
        ("--seconds", "0", "is 0, expected more than 0"),
    ],
)
def test_wrong_options_are_refused(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tail", option, value])
    assert message in capsys.readouterr().err


def test_a_backend_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["tail", "--backend", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: --backend is 'cuda': backend 'cuda' is not available: ")


SHORT = ["tail", "--device", "cpu", "--quick", "--networks", "resnet18", "--modes", "eval", "--peers", "eager"]


def test_a_wrong_fused_tail_is_a_problem_and_the_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tail, "fused", lambda self, *inputs: self(*inputs) + 1)
    assert main([*SHORT, "--json", str(tmp_path / "tail.json")]) == 1
    found = result.read(tmp_path / "tail.json")
    assert [row["way"] for row in found.rows] == ["eager"] * 2
    assert len(found.details["problems"]) == 2
    problem = "fused differs from eager, so it was not timed: resnet18 layer1.0 eval, relative error"
    assert problem in capsys.readouterr().out


def test_a_wrong_peer_is_a_note_and_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = ways.Way("", lambda tail, _: lambda *inputs: tail(*inputs) + 1)
    monkeypatch.setitem(ways.WAYS, "eager-contiguous", wrong)
    assert main([*SHORT[:-1], "eager-contiguous", "--json", str(tmp_path / "tail.json")]) == 0
    found = result.read(tmp_path / "tail.json")
    assert [row["way"] for row in found.rows] == ["fused", "eager"] * 2
    assert any(note.startswith("eager-contiguous differs from eager") for note in found.notes)


def test_a_tail_that_cannot_be_measured_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forward = Tail.forward

    def too_large(self: Tail, x: Tensor, before: Tensor) -> Tensor:
        if self.shape.block == "layer1.0":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, before)

    monkeypatch.setattr(Tail, "forward", too_large)
    assert main([*SHORT, "--json", str(tmp_path / "tail.json")]) == 1
    found = result.read(tmp_path / "tail.json")
    assert found.details["problems"] == ["resnet18 layer1.0 eval: OutOfMemoryError: CUDA out of memory"]
    assert [row["tail"] for row in found.rows] == ["resnet18 layer2.0"] * 2


def test_measuring_needs_pytorch_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that the GPU stages run on machines where nothing can be installed; drawing is refused before the run."""
    for name in ("matplotlib", "mlxtend", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(SHORT) == 0
    assert "resnet18 layer1.0" in capsys.readouterr().out
    assert main([*SHORT, "--plot", str(tmp_path / "tail.png")]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: matplotlib, mlxtend, tqdm not installed: ")


def test_what_there_was_no_time_for_is_noted(tmp_path: Path) -> None:
    main([*SHORT, "--seconds", "1e-9", "--json", str(tmp_path / "tail.json")])
    found = result.read(tmp_path / "tail.json")
    assert found.rows == []
    assert found.details["left_out"] == ["resnet18 layer1.0 eval: anything", "resnet18 layer2.0 eval: anything"]
    assert "No time was left for anything in 2 of 2 tails and modes, from resnet18 layer1.0 eval on." in found.notes


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> result.Result:
    """What the benchmark writes, with every peer that a CPU has."""
    folder = tmp_path_factory.mktemp("tail")
    peers = ",".join(ways.PEERS[:3] + ways.PEERS[4:])
    files = ["--json", str(folder / "tail.json"), "--plot", str(folder / "tail.svg")]
    assert main(["tail", "--quick", "--device", "cpu", "--peers", peers, *files]) == 0
    assert (folder / "tail.svg").read_text().count("<svg") == 1
    return result.read(folder / "tail.json")


def test_quick_run_has_every_kind_mode_and_way(quick: result.Result) -> None:
    kinds = {"projection+projection", "projection+identity", "direct+identity", "direct+projection", "direct+padding"}
    assert {row["kind"] for row in quick.rows} == kinds
    assert {row["mode"] for row in quick.rows} == set(MODES)
    on_cpus = set(ways.WAYS) - {"cudnn-fused", "cudnn-graph", "compile-max-autotune"}
    assert {row["way"] for row in quick.rows} == on_cpus
    assert quick.details["problems"] == []
    assert len({quick.key(row) for row in quick.rows}) == len(quick.rows)


def test_quick_run_shares_the_measured_ceilings(quick: result.Result) -> None:
    ceilings = Ceilings(**quick.details["ceilings"])
    for row in quick.rows:
        seconds = (result.number(row["time"]) or 0) / 1e6
        work = Work(row["needed bytes"], row["needed operations"])  # type: ignore[arg-type]
        assert row["roofline"] == pytest.approx(work.seconds(ceilings) / seconds)
        assert row["computed"] == pytest.approx(work.operations / seconds / 1e12)
        # Where plain PyTorch computes, the kernels' bytes are not what it moves.
        assert ("moved" in row and row["moved"] is None) == (row["way"] not in ("eager", "eager-contiguous"))


def test_quick_run_notes_what_was_not_there(quick: result.Result) -> None:
    assert "cudnn-fused is not there for 2 of 20 tails and modes: cuDNN needs a GPU." in quick.notes
    assert any("fused tails were computed by plain PyTorch here" in note for note in quick.notes)


def test_table_fits_a_terminal(quick: result.Result) -> None:
    assert max(map(len, quick.table().splitlines())) <= 160


def test_picture_has_a_panel_a_mode_and_every_way(quick: result.Result) -> None:
    figure = draw(quick)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Training, forward",
        "Training, forward + backward",
        "Evaluation, forward",
        "Evaluation, forward + backward",
    ]
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:2] == ["fused", "eager"]
    assert labels[-1].startswith("roof: ")
    for axes in figure.axes:
        marked = [text.get_text() for text in axes.texts]
        # Each tail has a label, or is one of the others of its neighbour's.
        assert sum(1 + int(label.partition("+")[2] or 0) for label in marked) == 5


def test_summary_is_of_all_tails(quick: result.Result) -> None:
    header, rows = headline(quick)
    assert header[:3] == ["mode", "tails", "fused time / eager (measured)"]
    assert header[-1] == "fused bytes / eager (counted)"
    assert [row[:2] for row in rows] == [[mode, "5"] for mode in MODES]
    assert {len(row) for row in rows} == {len(header)}
    assert caption(quick).startswith("Roofline of 5 residual tails of ResNets,")
    assert json.dumps(quick.settings)
