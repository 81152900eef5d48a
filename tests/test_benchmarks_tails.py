"""The tails that are timed on a GPU, and how their times are kept. No test looks at a time."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fused_resnet
from benchmarks import clocks as timing
from benchmarks.accuracy import relative_error
from benchmarks.gpu import measure, process, times
from benchmarks.gpu.record import Record
from benchmarks.tails import RESNET18, RESNET50, Tail, TailShape, by_importance, counted_bytes
from fused_resnet.strategy import Strategy

MACHINE: dict[str, Any] = {"gpu": {"capability": "9.0"}, "torch": "2.11.0"}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, "stage", MACHINE)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_tails_are_those_of_the_networks() -> None:
    assert sum(shape.blocks for shape in RESNET50) == 16
    assert sum(shape.blocks for shape in RESNET18) == 8
    stages = [shape.stage for shape in by_importance()]
    assert stages == sorted(stages)
    assert len({shape.name for shape in by_importance()}) == len(stages) == 23


def test_counted_bytes_are_each_tensor_once_and_what_the_strategy_adds() -> None:
    shape = TailShape("net", "layer1.0", 1, 4, inner=3, channels=10, before=5, stride=2, batch=2)
    rows = 2 * 4 * 4
    assert counted_bytes(shape, False, [], 2) == rows * (3 + 5 + 10) * 2
    assert counted_bytes(shape, True, ["moments", "moments"], 2) == rows * (2 * 3 + 2 * 5 + 10) * 2
    assert counted_bytes(shape, True, ["materialise", "moments"], 2) == rows * (3 + 2 * 10 + 2 * 5 + 10) * 2
    direct = TailShape("net", "layer1.0", 1, 4, inner=None, channels=10, batch=2)
    assert counted_bytes(direct, True, [], 2) == rows * (2 * 10 + 10 + 10) * 2


def test_counted_bytes_of_both_directions_add_those_of_backward() -> None:
    def backward(shape: TailShape, training: bool, *strategies: Strategy) -> int:
        forward, both = (counted_bytes(shape, training, strategies, 2, backward=b) for b in (False, True))
        return (both - forward) // (2 * 4 * 4 * 2)

    # dy, y and both x are read, g is written; g is read, both dx are written, the strided one at four times the pixels.
    shape = TailShape("net", "layer1.0", 1, 4, inner=3, channels=10, before=5, stride=2, batch=2)
    frozen = 3 * 10 + 3 + 5 + 10 + 3 + 4 * 5
    assert backward(shape, False) == frozen
    assert backward(shape, True, "moments", "moments") == frozen + 3 + 5  # x once more
    assert backward(shape, True, "materialise", "moments") == frozen + 2 * (3 + 10) + 5  # twice, and dp
    # The norm's input is read with g, in training once more; dz is written, and the identity's gradient is g.
    direct = TailShape("net", "layer1.0", 1, 4, inner=None, channels=10, batch=2)
    assert backward(direct, False) == 6 * 10
    assert backward(direct, True) == 7 * 10


@pytest.mark.parametrize("training", [True, False])
def test_tail_computes_the_same_in_its_three_ways(training: bool) -> None:
    tail = Tail(RESNET50[2].shrunk(2, 5, 16), torch.float32).train(training)
    inputs = tail.inputs("cpu", torch.float32)
    exact = copy.deepcopy(tail).double()(*(x.double() for x in inputs))
    for way in (tail, tail.fused, tail.fused_behind_conv):
        assert relative_error(way(*inputs).detach(), exact.detach()) < 1e-5


class CountingClock:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, call: timing.Call) -> timing.Sample:
        self.calls.append(str(call()))
        return timing.Sample(len(self.calls) * 1.0, 0.5)


def test_rounds_take_all_in_turn_and_warm_up_is_left_out() -> None:
    clock = CountingClock()
    measured = timing.measure({"a": lambda: "a", "b": lambda: "b"}, clock, runs=3, warm_up=1)
    assert clock.calls == ["a", "b"] * 4
    assert measured["a"].device.median == 5.0
    assert measured["b"].host.median == 0.5


@pytest.mark.parametrize("stride", [1, 2])
def test_strategies_are_those_that_the_paths_take(stride: int) -> None:
    tail = Tail(TailShape("net", "layer1.0", 1, 4, 8, 16, before=8, stride=stride, batch=2), torch.bfloat16)
    inputs = tail.inputs("cpu", torch.bfloat16)
    for strategy in ("moments", "materialise"):
        with fused_resnet.strategy.use_strategy(strategy):  # type: ignore[arg-type]
            assert measure.strategies_of(tail, inputs) == [strategy] * 2
        forward, both = (measure.bytes_of(tail, inputs, strategy, backward) for backward in (False, True))
        assert forward is not None
        assert both is not None
        assert forward < both
    assert measure.bytes_of(tail, inputs, "moments") != measure.bytes_of(tail, inputs, "materialise")
    assert measure.bytes_of(tail, inputs, "eager") is None


def items_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("@item ")) for line in output.splitlines() if line.startswith("@item ")]


def small_plan(shapes: list[TailShape]) -> measure.Plan:
    return measure.Plan("cpu", measure.FORWARD, shapes, [], runs=2, warm_up=1)


def backward_plan(shapes: list[TailShape]) -> measure.Plan:
    return replace(small_plan(shapes), modes=measure.BACKWARD)


def test_tails_are_timed_and_what_is_left_out_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = [RESNET50[0].shrunk(2, 5, 16), RESNET18[0].shrunk(2, 5, 16)]
    measure.run(small_plan(shapes), timing.CpuClock(), deadline=float("inf"))
    *timed, last = items_of(capsys.readouterr().out)
    assert [(item["tail"], item["mode"]) for item in timed] == [
        (shape.name, mode) for shape in shapes for mode in ("training", "eval")
    ]
    assert list(timed[0]["sides"]) == ["fused", "moments", "materialise", "conv3 apart", "eager"]
    assert list(timed[3]["sides"]) == ["fused", "eager"]
    assert timed[0]["sides"]["fused"]["bytes"] > 0
    assert last == {"left_out": []}
    measure.run(small_plan(shapes), timing.CpuClock(), deadline=0)
    assert len(items_of(capsys.readouterr().out)[0]["left_out"]) == 4


def test_a_wrong_side_is_not_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tail, "fused", lambda self, *inputs: self(*inputs) * float("nan"))
    measure.run(small_plan([RESNET18[0].shrunk(2, 5, 16)]), timing.CpuClock(), deadline=float("inf"))
    wrong, timed, *_ = items_of(capsys.readouterr().out)
    assert "differs from eager" in wrong["problem"]
    assert list(timed["sides"]) == ["eager"]


def test_backward_is_timed_with_its_forward(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = Tail.gradients
    computed: list[set[str]] = []

    def recorded(self: Tail, *arguments: Any) -> dict[str, torch.Tensor]:
        found = gradients(self, *arguments)
        computed.append(set(found))
        return found

    monkeypatch.setattr(Tail, "gradients", recorded)
    measure.run(backward_plan([RESNET50[3].shrunk(2, 5, 16)]), timing.CpuClock(), deadline=float("inf"))
    timed, _ = items_of(capsys.readouterr().out)
    assert timed["mode"] == "forward + backward"
    assert list(timed["sides"]) == ["fused", "moments", "materialise", "conv3 apart", "eager"]
    # Each is compared with eager (two calls), warmed up and called twice.
    assert len(computed) == 5 * (2 + 1 + 2)
    assert all(names == {"x", "before", "conv.weight", "norm.weight", "norm.bias"} for names in computed)
    shape = backward_plan([RESNET50[3].shrunk(2, 5, 16)]).shapes[0]
    assert timed["sides"]["materialise"]["bytes"] == counted_bytes(shape, True, ["materialise"], 2, backward=True)
    assert timed["sides"]["eager"]["bytes"] is None


def test_a_side_with_a_wrong_gradient_is_not_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = Tail.fused

    def wrong(self: Tail, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return fused(self, x, before + 0.1 * (before - before.detach()))

    monkeypatch.setattr(Tail, "fused", wrong)
    measure.run(backward_plan([RESNET18[0].shrunk(2, 5, 16)]), timing.CpuClock(), deadline=float("inf"))
    problem, timed, _ = items_of(capsys.readouterr().out)
    assert "differs from eager" in problem["problem"]
    assert list(timed["sides"]) == ["eager"]


def test_compiler_that_fails_is_recorded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    shapes = [RESNET18[0].shrunk(2, 5, 16)]
    chosen = measure.Plan("cpu", measure.FORWARD, [], shapes, runs=2, warm_up=1)
    measure.run(chosen, timing.CpuClock(), deadline=float("inf"))
    assert items_of(capsys.readouterr().out)[0]["not_compiled"] == "RuntimeError: no C++ compiler"


def test_table_of_times_has_ratios_of_neighbours() -> None:
    def sides(**us: float) -> dict[str, Any]:
        return {name.replace("_", "."): {"us": value, "gb_s": 1000.0} for name, value in us.items()}

    items = [
        {"tail": "a", "mode": "training", "compiled": False, "sides": sides(fused=50.0, eager=100.0)},
        {"tail": "a", "mode": "training", "compiled": True, "sides": sides(fused=60.0, eager=90.0, torch_compile=80.0)},
    ]
    table = times.times_table(items)
    assert table.splitlines()[-1].split() == ["a", "50.0", "100.0", "80.0", "1000", "0.50", "0.75"]
    assert "GB/s" in table
    assert times.one_line(items[0]) == "a training: fused 50.0 us, eager 100.0 us"
    assert times.one_line({"left_out": []}) is None


def test_table_of_memory_is_in_megabytes_and_empty_where_none_is_counted() -> None:
    sides = {"fused": {"peak_bytes": 1_500_000}, "eager": {"peak_bytes": 2_000_000}}
    items = [
        {"tail": "a", "compiled": False, "sides": sides},
        {"tail": "a", "compiled": True, "sides": {"torch.compile": {"peak_bytes": 1_000_000}}},
        {"tail": "b", "compiled": False, "sides": {"fused": {"peak_bytes": None}}},
    ]
    *_, a, b = times.memory_table(items).splitlines()
    assert a.split() == ["a", "1.5", "2.0", "1.0"]
    assert b.split() == ["b"]


def test_process_that_crashes_leaves_what_it_measured(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    item = {"tail": "a", "mode": "eval", "compiled": False, "sides": {"fused": {"us": 1.0, "gb_s": 1.0}}}
    code = f"print('@item ' + {json.dumps(json.dumps(item))}, flush=True); import os; os.abort()"
    monkeypatch.setattr(times, "sys", SimpleNamespace(executable=sys.executable))
    run = process.run
    monkeypatch.setattr(times, "run", lambda _, **options: run(python(code), **options))
    times.time_forward(record, rehearse=True)
    assert record.items == [item]
    assert record.problems == ["measuring: ended by signal 6"]
