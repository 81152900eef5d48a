"""The process that trains: what is checked ahead of timing, how memory is counted, what a crash costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from training_jobs import JOB, Items, reports, times

import fused_resnet
from benchmarks.clocks import consecutive
from benchmarks.errors import EXTRA
from benchmarks.process import item_of
from benchmarks.trace import Kernel, busy, longest, most_allocated

for dependency in EXTRA:
    pytest.importorskip(dependency)


from benchmarks import networks, process  # noqa: E402
from benchmarks.networks import COMPILE, EAGER, FUSED, FUSED_COMPILE, forward  # noqa: E402
from benchmarks.training import processes, runners, side  # noqa: E402
from benchmarks.training.collect import extrapolated  # noqa: E402
from benchmarks.training.job import Job  # noqa: E402
from benchmarks.training.side import host_seconds, search  # noqa: E402


def reported(capsys: pytest.CaptureFixture[str]) -> Items:
    return [item for line in capsys.readouterr().out.splitlines() if (item := item_of(line)) is not None]


def test_ways_learn_alike_take_turns_and_fuse_what_they_should(
    capsys: pytest.CaptureFixture[str], computed_tails: list[Any]
) -> None:
    with fused_resnet.use_backend("reference"):
        side.measure(JOB)
    items = reported(capsys)
    assert [item["begun"] for item in items if "begun" in item] == [EAGER, FUSED, None]
    losses = {item["way"]: item["losses"] for item in items if "losses" in item}
    assert losses.keys() == {EAGER, FUSED}
    assert losses[FUSED] == pytest.approx(losses[EAGER], rel=0.05)
    assert losses[FUSED][-1] < losses[FUSED][0]
    assert {item["way"]: len(item["seconds"]) for item in items if "seconds" in item} == {EAGER: 3, FUSED: 3}
    peaks = {item["way"]: item["peak_bytes"] for item in items if "peak_bytes" in item}
    assert peaks[FUSED] < peaks[EAGER]
    # The first losses, a step for the memory, the timed ones.
    assert len(computed_tails) == 4 * (len(losses[FUSED]) + 1 + JOB.steps)


def test_a_way_that_computes_something_else_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(way: str, network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        right = forward(way, network)
        return right if way == EAGER else lambda x: 3 * right(x)

    monkeypatch.setattr(runners.networks, "forward", wrong)
    side.measure(JOB)
    items = reported(capsys)
    (failed,) = (item for item in items if "failed" in item)
    assert (failed["way"], failed["kind"]) == (FUSED, side.WRONG)
    assert "of the eager network" in failed["failed"]
    assert [item["way"] for item in items if "seconds" in item] == [EAGER]


def test_losses_are_of_the_first_step_and_of_what_is_learnt() -> None:
    def check(own: list[float], dtype: str) -> None:
        job = replace(JOB, dtype=dtype)
        runners.Training(EAGER, nn.Linear(1, 1), job, 1).check(own, [2.0, 1.5, 1.0])

    check([2.0, 1.5, 1.05], "float32")
    for wrong in ([2.01, 1.5, 1.0], [2.0, 1.5, 1.2], [2.0, 1.5, float("nan")]):
        with pytest.raises(runners.WrongError, match=r"of the eager network 2\.0000, 1\.5000, 1\.0000"):
            check(wrong, "float32")
    check([2.01, 1.5, 1.0], "bfloat16")


def test_evaluation_compares_logits_and_learns_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(JOB, evaluation=True)
    with fused_resnet.use_backend("reference"):
        side.measure(job)
    items = reported(capsys)
    assert {item["way"]: len(item["seconds"]) for item in items if "seconds" in item} == {EAGER: 3, FUSED: 3}
    assert not any("losses" in item for item in items)

    def wrong(way: str, network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        right = forward(way, network)
        return right if way == EAGER else lambda x: 3 * right(x)

    monkeypatch.setattr(runners.networks, "forward", wrong)
    side.measure(job)
    (failed,) = (item for item in reported(capsys) if "failed" in item)
    assert (failed["way"], failed["kind"]) == (FUSED, side.WRONG)
    assert failed["failed"].startswith("WrongError: relative error 2, expected at most")


def test_a_network_without_tails_is_refused() -> None:
    with pytest.raises(RuntimeError, match="0 tails are fused"):
        forward(FUSED, nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("way", "error", "kind"),
    [
        (FUSED, RuntimeError("no"), side.ERROR),
        (EAGER, RuntimeError("no"), side.ERROR),
        (COMPILE, RuntimeError("no"), side.COMPILER),
        (FUSED_COMPILE, runners.WrongError("no"), side.COMPILER),
        (FUSED, runners.WrongError("no"), side.WRONG),
        (FUSED, torch.cuda.OutOfMemoryError("no"), side.MEMORY),
        (EAGER, networks.UnavailableError("no"), side.MISSING),
    ],
)
def test_failures_are_told_apart(way: str, error: Exception, kind: str) -> None:
    found = side.failure(way, error)
    assert found == {"failed": f"{type(error).__name__}: no", "kind": kind}


def test_networks_are_torchvisions_where_it_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    made = nn.Linear(2, 2)
    modules = {
        "benchmarks.torchvision_operators": None,
        "torchvision.models": SimpleNamespace(get_model=lambda name: made if name == "resnet50" else None),
    }
    monkeypatch.setattr("importlib.import_module", lambda name: modules[name])
    assert networks.make("torchvision:resnet50") is made


@pytest.mark.parametrize("error", [ImportError, RuntimeError, ValueError])
def test_networks_that_a_library_cannot_give_are_told(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise error("no library")

    monkeypatch.setattr("importlib.import_module", fails)
    with pytest.raises(networks.UnavailableError, match="timm:resnet50d: no library"):
        networks.make("timm:resnet50d")


def test_every_own_network_is_unfused() -> None:
    with torch.device("meta"):
        for name in networks.OWN:
            made = networks.make(name)
            assert not any(getattr(module, "fused", False) for module in made.modules()), name


def test_most_allocated_is_exact() -> None:
    def call() -> None:
        first = torch.ones(1000)
        second = first.clone()
        del first
        third = second.clone()
        del second, third
        torch.ones(500)

    assert most_allocated(call, "cpu") == 2 * 1000 * 4


def test_steps_in_a_row_are_each_timed() -> None:
    calls: list[int] = []
    assert len(consecutive(lambda: calls.append(1), 3, "cpu")) == len(calls) == 3
    assert host_seconds(lambda: calls.append(1)) > 0


def test_kernels_at_the_same_time_count_once() -> None:
    kernels = [Kernel("b", 5, 8), Kernel("a", 0, 10), Kernel("c", 20, 21), Kernel("d", 9, 12)]
    assert busy(kernels) == 13
    assert busy([]) == 0


def test_longest_kernels_are_told_with_their_runs() -> None:
    kernels = [Kernel(f"k{i}", 0, i) for i in range(1, 20)] + [Kernel("often", 0, 15), Kernel("often", 0, 15)]
    found = longest(kernels, calls=2)
    assert len(found) == 10
    assert found[0] == {"kernel": "often", "ms": 0.015, "runs": 1.0}
    assert found[1]["kernel"] == "k19"


@pytest.mark.parametrize("limit", [64, 65, 100, 127, 128, 1000, 1023])
def test_the_largest_batch_is_found_to_a_sixteenth(limit: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    found = search(fits, 64)
    assert found is not None
    assert limit * 15 / 16 - 1 <= found <= limit
    assert len(tried) < 14


def test_a_batch_that_does_not_fit_has_no_largest() -> None:
    assert search(lambda _: False, 64) is None


def test_peaks_of_two_batches_tell_what_fits() -> None:
    assert extrapolated({8: 180, 16: 260}, 1000) == 90
    assert extrapolated({8: 180}, 1000) is None


def stand_in(monkeypatch: pytest.MonkeyPatch, code: Callable[[Job], str]) -> list[Job]:
    """Has each job's process run other code; the jobs, as they come."""
    jobs: list[Job] = []
    run = process.run

    def run_other(command: list[str], **options: Any) -> process.Ended:
        jobs.append(Job(**json.loads(command[-1])))
        return run([sys.executable, "-c", code(jobs[-1])], **options)

    monkeypatch.setattr(processes, "run", run_other)
    return jobs


def test_a_way_that_crashes_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def code(job: Job) -> str:
        if FUSED in job.ways:
            return reports({"begun": EAGER}, {"begun": FUSED}) + "; import os; os.abort()"
        return reports({"begun": EAGER}, {"begun": None}, *times(job.ways))

    jobs = stand_in(monkeypatch, code)
    items = processes.items_of(JOB, processes.time.monotonic() + 100, lambda _: None)
    assert [job.ways for job in jobs] == [[EAGER, FUSED], [EAGER]]
    assert items[0] == {"way": FUSED, "failed": "ended by signal 6", "kind": side.ERROR}
    assert items[1]["seconds"] == [0.1, 0.2]


def test_without_time_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = stand_in(monkeypatch, lambda job: "")
    items = processes.items_of(JOB, processes.time.monotonic() + 1, lambda _: None)
    assert items == [{"way": EAGER, "left_out": True}, {"way": FUSED, "left_out": True}]
    assert not jobs


def test_a_process_that_cannot_begin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, lambda job: "raise SystemExit(1)")
    items = processes.items_of(JOB, processes.time.monotonic() + 100, lambda _: None)
    assert [(item["way"], item["failed"]) for item in items] == [(EAGER, "exit status 1"), (FUSED, "exit status 1")]
