"""The benchmark ``tail`` rotates its inputs and times no way whose values are wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_tails import SMALL, each_mode
from torch import Tensor

from benchmarks.clocks import WallClock
from benchmarks.errors import EXTRA
from benchmarks.tail import measure, ways
from benchmarks.tail.measure import Case, Rotation, cache_bytes, copies_for
from benchmarks.tail_shapes import RESNET18, RESNET50, TailShape
from benchmarks.tails import MODES, Tail

for dependency in EXTRA:
    pytest.importorskip(dependency)


CPU = torch.device("cpu")


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


def conditions(dtype: torch.dtype = torch.float32) -> measure.Conditions:
    return measure.Conditions(CPU, dtype, lambda _: WallClock(), cache_bytes=2**12, runs=2, warm_up=1)


@each_mode
def test_all_ways_compute_the_same(mode: Any) -> None:
    names = [name for name, way in ways.WAYS.items() if not way.turn]
    outcome = measure.measure_tail(SMALL, mode, names, conditions())
    assert (outcome.wrong, outcome.failed) == ({}, {})
    assert list(outcome.measured) == ["fused", "eager", "eager-contiguous", "moments", "library"]
    assert all(measured.error < 1e-5 for measured in outcome.measured.values())
    assert outcome.impossible.keys() >= {"cudnn-fused"}


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
    weight, bias = ways.fold(tail.conv, tail.norm)
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
def test_cudnn_says_why_it_is_not_there(shape: TailShape, mode: str, reason: str) -> None:
    tail = Tail(shape, torch.float32).train(MODES[mode].training)
    with pytest.raises(ways.ImpossibleError, match=reason):
        ways.WAYS["cudnn-fused"].prepare(tail, MODES[mode])
