"""The training steps that are timed on a GPU, and how their results are kept. No test looks at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fused_resnet
from benchmarks.clocks import consecutive
from benchmarks.gpu import process, train, train_side
from benchmarks.gpu.record import Record
from benchmarks.peak import peak_bytes

MACHINE: dict[str, Any] = {"gpu": {"capability": "9.0"}, "torch": "2.11.0"}
PLAN = train_side.Plan("cpu", batch=4, size=32, classes=10, first_steps=3, timed_steps=2)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, "train", MACHINE)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return train_side.network(rehearse=True)[1]


def item(side: str, batch: int = 64, last_loss: float = 3.0, **changes: Any) -> dict[str, Any]:
    results = {"ms": 10.0, "ms_lower": 9.0, "ms_upper": 11.0, "images_s": batch * 100.0, "losses": [7.0, last_loss]}
    return {"side": side, "batch": batch, **results, "peak_bytes": 4_000_000, "held_bytes": 1_000_000, **changes}


# One side


@pytest.mark.parametrize(("side", "tails"), [(train_side.EAGER, 0), (train_side.FUSED, 4)])
def test_a_side_learns_with_the_tails_that_it_should_fuse(side: str, tails: int, computed_tails: list[Any]) -> None:
    with fused_resnet.use_backend("reference"):
        results = train_side.run(side, PLAN, small_network())
    steps = PLAN.first_steps + PLAN.timed_steps  # on CPUs, none for the memory
    assert len(computed_tails) == tails * steps
    assert len(results["losses"]) == PLAN.first_steps
    assert results["losses"][-1] < results["losses"][0]
    assert {"ms", "ms_lower", "ms_upper", "images_s"} <= results.keys()


def test_a_network_without_tails_is_refused() -> None:
    with pytest.raises(RuntimeError, match="0 tails are fused"):
        train_side.model_of(train_side.FUSED, nn.Sequential(nn.Linear(2, 2)))


def test_a_side_that_begins_from_another_loss_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    model_of = train_side.model_of

    def wrong(side: str, made: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        right = model_of(side, made)
        return lambda x: 3 * right(x)

    def timed(*_: object) -> list[float]:
        raise AssertionError("was timed")

    monkeypatch.setattr(train_side, "model_of", wrong)
    monkeypatch.setattr(train_side, "consecutive", timed)
    with pytest.raises(RuntimeError, match="of the unfused network"):
        train_side.run(train_side.EAGER, PLAN, small_network())


@pytest.mark.parametrize(
    ("side", "error", "key"),
    [
        (train_side.FUSED, RuntimeError("no"), "problem"),
        (train_side.EAGER, RuntimeError("no"), "problem"),
        (train_side.COMPILED, RuntimeError("no"), "not_timed"),
        (train_side.FUSED, torch.cuda.OutOfMemoryError("no"), "not_timed"),
    ],
)
def test_only_what_is_of_this_project_is_a_problem(side: str, error: Exception, key: str) -> None:
    def fails() -> dict[str, Any]:
        raise error

    results = train_side.attempt(side, fails)
    assert list(results) == [key]
    assert "no" in results[key]


def test_network_is_torchvisions_where_it_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    made = nn.Linear(2, 2)
    torchvision = SimpleNamespace(models=SimpleNamespace(resnet50=lambda: made))
    monkeypatch.setattr("importlib.import_module", lambda name: {"torchvision": torchvision}[name])
    assert train_side.network(rehearse=False) == ("torchvision", made)


@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_network_is_this_packages_elsewhere(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise error

    monkeypatch.setattr("importlib.import_module", fails)
    with torch.device("meta"):
        source, made = train_side.network(rehearse=False)
    assert source == "fused_resnet"
    assert sum(isinstance(module, fused_resnet.nn.Bottleneck) and not module.fused for module in made.modules()) == 16


def test_steps_in_a_row_are_each_timed_and_memory_of_cpus_is_not_counted() -> None:
    calls: list[int] = []
    assert len(consecutive(lambda: calls.append(1), 3, "cpu")) == len(calls) == 3
    assert peak_bytes(lambda: calls.append(1), "cpu") is None
    assert len(calls) == 3


# The stage


def test_what_is_compiled_comes_last() -> None:
    assert train.order((64, 256)) == [
        ("eager", 64),
        ("fused", 64),
        ("eager", 256),
        ("fused", 256),
        ("torch.compile", 64),
        ("torch.compile", 256),
    ]


def test_sides_are_compared_by_what_they_have_learnt() -> None:
    eager, alike, other = item("eager"), item("fused", last_loss=3.3), item("torch.compile", last_loss=3.5)
    (difference,) = train.learning_differences([eager, alike, other])
    assert difference == (
        "torch.compile",
        "torch.compile, batch 64: losses 7.000, 3.500, of the eager network 7.000, 3.000",
    )
    assert train.learning_differences([item("fused", last_loss=float("nan")), eager])
    # Of another batch nothing follows, nor without the eager network.
    assert not train.learning_differences([eager, item("fused", batch=256, last_loss=9.0)])


def test_table_of_steps_has_ratios_to_the_fused_network() -> None:
    items = [item("eager", ms=20.0, peak_bytes=8_000_000), item("eager", batch=256), item("fused")]
    *_, eager, fused, alone = train.steps_table(items).splitlines()
    assert " ".join(eager.split()) == "eager, batch 64 20.0 9.0 to 11.0 6400 8 1 7.000 3.000 0.50 0.50"
    assert " ".join(fused.split()) == "fused, batch 64 10.0 9.0 to 11.0 6400 4 1 7.000 3.000"
    assert alone.split()[:3] == ["eager,", "batch", "256"]
    assert train.steps_table([item("fused", peak_bytes=None, held_bytes=None)]).splitlines()[-1].endswith("3.000")


def stand_in(monkeypatch: pytest.MonkeyPatch, code: dict[str, str]) -> None:
    """Has each side's process run other code, by the side's name."""
    run = process.run

    def run_other(command: list[str], **options: Any) -> process.Ended:
        side, batch = command[command.index("--side") + 1], command[command.index("--batch") + 1]
        found = item(side, int(batch))
        report = f"print('@item ' + {json.dumps(json.dumps(found))}, flush=True)"
        return run([sys.executable, "-c", code.get(side, report)], **options)

    monkeypatch.setattr(train, "run", run_other)


def test_sides_run_apart_and_one_that_crashes_leaves_the_others(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, {"fused": "import os; os.abort()"})
    train.run_stage(record, rehearse=False)
    assert [(found["side"], found["batch"]) for found in record.items] == [
        (side, batch) for side, batch in train.order(train.BATCHES) if side != "fused"
    ]
    assert record.problems == [f"fused, batch {batch}: ended by signal 6" for batch in train.BATCHES]


def test_a_compiler_that_crashes_is_noted(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, {"torch.compile": "import os; os.abort()"})
    train.run_stage(record, rehearse=False)
    assert record.passed
    assert record.notes == [f"torch.compile, batch {batch}: ended by signal 6" for batch in train.BATCHES]


def test_what_does_not_fit_in_the_time_is_left_out(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, {})
    monkeypatch.setattr(train, "SECONDS", train.NEEDED_S["eager"] + 20)
    train.run_stage(record, rehearse=False)
    assert record.passed
    assert record.notes == ["no time was left for: torch.compile, batch 64; torch.compile, batch 256"]
    assert record.items[-1] == {"left_out": ["torch.compile, batch 64", "torch.compile, batch 256"]}


def test_a_stage_that_times_nothing_fails(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SECONDS", 0.0)
    train.run_stage(record, rehearse=False)
    assert record.problems == ["nothing was timed"]
