"""The checks of freshly built kernels: what they compare, and that they see what is wrong."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

import fused_resnet
from benchmarks.gpu import checks
from benchmarks.gradients import incoming_gradient
from benchmarks.modes import Mode
from benchmarks.tails import RESNET18, RESNET50, Tail
from fused_resnet.backends.kernels import loading

NEEDS_EMULATOR = pytest.mark.skipif(loading.load("_emulated")[0] is None, reason="the emulator was not built")


def checked(mode: Mode, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    with fused_resnet.use_backend("emulated"):
        checks.check_values(RESNET50[0].shrunk(2, 5, 16), "bfloat16", mode, "cpu")
    return [json.loads(line.removeprefix("@item ")) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.emulated
@NEEDS_EMULATOR
def test_checks_see_a_wrong_output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    training = checks.MODES[0]
    good = checked(training, capsys)
    monkeypatch.setattr(Tail, "fused", lambda self, *inputs: self(*inputs) + 0.1)
    bad = checked(training, capsys)
    assert len(good) == len(bad) == 2  # strategies
    assert not any("problem" in item for item in good)
    assert all(item["problem"] == "relative error above 0.015 of output" for item in bad)


@pytest.mark.emulated
@NEEDS_EMULATOR
@pytest.mark.parametrize("mode", checks.MODES, ids=lambda mode: mode.name)
def test_checks_see_a_wrong_gradient(
    mode: Mode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = Tail.fused

    def wrong(self: Tail, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return fused(self, x, before + 0.1 * (before - before.detach()))

    assert not any("problem" in item for item in checked(mode, capsys))
    monkeypatch.setattr(Tail, "fused", wrong)
    problems = [item.get("problem") for item in checked(mode, capsys)]
    assert problems
    expected = "relative error above 0.015 of gradient of before" if mode.backward else None
    assert all(problem == expected for problem in problems)


def test_checks_compare_all_that_a_tail_computes(capsys: pytest.CaptureFixture[str]) -> None:
    with fused_resnet.use_backend("reference"):
        checks.check_values(RESNET18[0].shrunk(2, 5, 16), "float32", checks.MODES[0], "cpu")
    item = json.loads(capsys.readouterr().out.removeprefix("@item "))
    assert set(item["relative_errors"]) == {
        "output",
        "norm.running_mean",
        "norm.running_var",
        *(f"gradient of {name}" for name in ("x", "before", "norm.weight", "norm.bias")),
    }


@pytest.mark.parametrize("mode", checks.MODES, ids=lambda mode: mode.name)
def test_a_zeroed_run_gives_the_same_once_it_is_filled(mode: Mode) -> None:
    """What checks on streams and of graphs rest on."""
    run, _ = checks.make(RESNET50[0].shrunk(2, 5, 16), "float32", mode, "cpu")
    late = run.zeroed()
    expected = run.results(copy.deepcopy(run.tail))
    before = late.results(copy.deepcopy(run.tail))
    late.fill(run)
    after = late.results(copy.deepcopy(run.tail))
    assert any("gradient" in name for name in expected) is mode.backward
    assert not torch.equal(before["output"], expected["output"])
    assert all(torch.equal(after[name], tensor) for name, tensor in expected.items())


def test_no_gradient_comes_in_where_rounding_decides_the_relu() -> None:
    z = torch.randn(4, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    rounded = z + 0.02 * torch.randn_like(z)
    gradient = incoming_gradient(z)
    assert not torch.equal(z > 0, rounded > 0)
    assert torch.equal(gradient * (z > 0), gradient * (rounded > 0))
    assert (gradient != 0).float().mean() > 0.8
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_nan_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    checks.report_errors("nan", {"output": torch.tensor([torch.nan])}, {"output": torch.ones(1)}, "float32")
    item = json.loads(capsys.readouterr().out.removeprefix("@item "))
    assert item["relative_errors"] == {"output": "nan"}
    assert "problem" in item
