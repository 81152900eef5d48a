"""Training of whole networks: what is checked ahead of timing, what becomes of failures. No test looks at a time."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fused_resnet
from benchmarks.__main__ import main
from benchmarks.clocks import consecutive
from benchmarks.errors import EXTRA, UserError
from benchmarks.gpu import process
from benchmarks.gpu.record import Record, item_of
from benchmarks.peak import peak_bytes

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks import networks, training  # noqa: E402
from benchmarks.gpu import train  # noqa: E402
from benchmarks.network_ways import COMPILE, EAGER, FUSED, FUSED_COMPILE, forward  # noqa: E402
from benchmarks.result import Result, number, read  # noqa: E402
from benchmarks.training import plan, processes, side, trainer  # noqa: E402
from benchmarks.training.allocated import most_allocated  # noqa: E402
from benchmarks.training.job import Job  # noqa: E402
from benchmarks.training.largest import extrapolated, search  # noqa: E402

JOB = Job("tiny", [EAGER, FUSED], 4, 64, "cpu", "float32", "reference", steps=3, in_a_row=1, seconds=60.0)
Items = list[dict[str, Any]]


def reported(capsys: pytest.CaptureFixture[str]) -> Items:
    return [item for line in capsys.readouterr().out.splitlines() if (item := item_of(line)) is not None]


# One process


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

    monkeypatch.setattr(trainer.network_ways, "forward", wrong)
    side.measure(JOB)
    items = reported(capsys)
    (failed,) = (item for item in items if "failed" in item)
    assert (failed["way"], failed["kind"]) == (FUSED, side.WRONG)
    assert "of the eager network" in failed["failed"]
    assert [item["way"] for item in items if "seconds" in item] == [EAGER]


def test_losses_are_of_the_first_step_and_of_what_is_learnt() -> None:
    eager = [2.0, 1.5, 1.0]
    trainer.check_losses([2.0, 1.5, 1.05], eager, "float32")
    for wrong in ([2.01, 1.5, 1.0], [2.0, 1.5, 1.2], [2.0, 1.5, float("nan")]):
        with pytest.raises(trainer.WrongError, match=r"of the eager network 2\.0000, 1\.5000, 1\.0000"):
            trainer.check_losses(wrong, eager, "float32")
    trainer.check_losses([2.01, 1.5, 1.0], eager, "bfloat16")


def test_a_network_without_tails_is_refused() -> None:
    with pytest.raises(RuntimeError, match="0 tails are fused"):
        forward(FUSED, nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("way", "error", "kind"),
    [
        (FUSED, RuntimeError("no"), side.ERROR),
        (EAGER, RuntimeError("no"), side.ERROR),
        (COMPILE, RuntimeError("no"), side.COMPILER),
        (FUSED_COMPILE, trainer.WrongError("no"), side.COMPILER),
        (FUSED, trainer.WrongError("no"), side.WRONG),
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


# Memory


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
    assert peak_bytes(lambda: calls.append(1), "cpu") is None


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


# The processes


def stand_in(monkeypatch: pytest.MonkeyPatch, code: Callable[[Job], str]) -> list[Job]:
    """Has each job's process run other code; the jobs, as they come."""
    jobs: list[Job] = []
    run = process.run

    def run_other(command: list[str], **options: Any) -> process.Ended:
        jobs.append(Job(**json.loads(command[-1])))
        return run([sys.executable, "-c", code(jobs[-1])], **options)

    monkeypatch.setattr(processes, "run", run_other)
    return jobs


def reports(*items: dict[str, Any]) -> str:
    return "; ".join(f"print('@item ' + {json.dumps(json.dumps(item))}, flush=True)" for item in items)


def times(ways: list[str]) -> Items:
    measured = {"losses": [2.0, 1.0], "held_bytes": 1_000_000, "peak_bytes": 4_000_000}
    return [{"way": way, **measured, "seconds": [0.1, 0.2]} for way in ways]


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


# The benchmark


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the processes themselves."""
    folder = tmp_path_factory.mktemp("training")
    files = ["--json", str(folder / "t.json"), "--plot", str(folder / "t.svg")]
    assert main(["training", "--quick", "--device", "cpu", *files, "--memory-limit", "1"]) == 0
    return folder


def test_quick_run_measures_both_ways(quick: Path) -> None:
    result = read(quick / "t.json")
    assert [(row["batch"], row["way"]) for row in result.rows] == [(4, EAGER), (4, FUSED), (8, EAGER), (8, FUSED)]
    for row in result.rows:
        assert (number(row["images/s"]) or 0) > 0
        assert (number(row["peak"]) or 0) > (number(row["held"]) or 0) > 0
    eager, fused = (number(row["largest batch"]) for row in result.rows[2:])
    assert eager is not None
    assert fused is not None
    assert fused > eager > 8
    assert result.details["failures"] == []
    assert any("synthetic" in note for note in result.notes)
    assert (quick / "t.svg").read_text().count("<svg") == 1


def test_words_and_small_table_come_from_the_file_alone(quick: Path) -> None:
    result: Result = read(quick / "t.json")
    header, rows = training.headline(result)
    assert [row[:2] for row in rows] == [["tiny, 8", EAGER], ["tiny, 8", FUSED]]
    assert all("(measured)" in name for name in header[2:5])
    assert header[5] == "largest batch (computed)"
    assert all(int(row[5].replace(",", "")) > 8 for row in rows)
    assert "synthetic images" in training.caption(result)
    assert "reference backend" in training.caption(result)


def test_failures_become_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = {"way": FUSED, "failed": "RuntimeError: no", "kind": side.ERROR}
    late = {"way": COMPILE, "left_out": True}
    monkeypatch.setattr(training, "items_of", lambda job, *_: [*times([EAGER]), failed, late])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["training", "--quick", "--batches", "4", "--json", str(tmp_path / "t.json")]) == 0
    result = read(tmp_path / "t.json")
    assert [row["way"] for row in result.rows] == [EAGER]
    assert "tiny, batch 4, fused: RuntimeError: no" in result.notes
    assert "tiny, batch 4, compile: no time was left." in result.notes
    assert [failure["way"] for failure in result.details["failures"]] == [FUSED]


def test_nothing_timed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "items_of", lambda *_: [])
    with pytest.raises(UserError, match="nothing was timed"):
        training.run(arguments("--quick", "--device", "cpu"))


def arguments(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    training.add_arguments(parser)
    return parser.parse_args(options)


@pytest.mark.parametrize(
    ("option", "value"), [("--models", "resnet19"), ("--ways", "slow"), ("--batches", "1"), ("--steps", "1")]
)
def test_wrong_arguments_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(option, value)
    assert f"argument {option}: is {value}, expected" in capsys.readouterr().err


def test_jobs_are_of_each_network_and_batch() -> None:
    cpu = torch.device("cpu")
    jobs = plan.jobs(arguments("--models", "resnet18,resnet20-A", "--batches", "8,4", "--ways", "fused,eager"), cpu)
    assert [(job.model, job.batch, job.size) for job in jobs] == [
        ("resnet18", 4, 224),
        ("resnet18", 8, 224),
        ("resnet20-A", 4, 32),
        ("resnet20-A", 8, 32),
    ]
    assert all((job.ways, job.dtype) == ([EAGER, FUSED], "float32") for job in jobs)
    assert Job(**json.loads(jobs[0].text())) == jobs[0]


def test_by_default_compiled_ways_leave_a_batch_out_on_a_gpu() -> None:
    jobs = plan.jobs(arguments("--models", "resnet18"), torch.device("cuda"))
    assert [(job.batch, job.ways) for job in jobs] == [
        (64, [EAGER, FUSED, COMPILE, FUSED_COMPILE]),
        (128, [EAGER, FUSED]),
        (256, [EAGER, FUSED, COMPILE, FUSED_COMPILE]),
    ]


def test_the_largest_batch_is_searched_of_each_way_what_is_compiled_last() -> None:
    jobs = [replace(JOB, batch=batch, ways=[EAGER, FUSED, COMPILE], model=m) for m in ("a", "b") for batch in (4, 8)]
    assert [(job.model, *job.ways, job.search_from) for job in training._searches(jobs)] == [
        ("a", EAGER, 8),
        ("b", EAGER, 8),
        ("a", FUSED, 8),
        ("b", FUSED, 8),
        ("a", COMPILE, 8),
        ("b", COMPILE, 8),
    ]


# The stage of the machines with a GPU


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, "train", {"gpu": {"capability": "9.0"}})


def benchmark(monkeypatch: pytest.MonkeyPatch, result: Result | None, code: str = "") -> dict[str, Any]:
    """In the place of the benchmark: leaves a result, then runs code. How it was run."""
    seen: dict[str, Any] = {}
    run = process.run

    def run_other(command: list[str], **options: Any) -> process.Ended:
        seen.update(command=command, **options)
        if result is not None:
            result.write(Path(command[command.index("--json") + 1]))
        return run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(train, "run", run_other)
    return seen


def with_failures(result: Result, *failures: tuple[str, str]) -> Result:
    details = [{"where": f"tiny, {way}", "way": way, "kind": kind, "what": "no"} for way, kind in failures]
    return replace(result, details={**result.details, "failures": details})


def test_the_stage_never_falls_back_from_the_kernels(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = benchmark(monkeypatch, None)
    train.run_stage(record, rehearse=False)
    command = " ".join(seen["command"])
    assert "--device cuda --backend cuda" in command
    assert seen["environment"] == {"FUSED_RESNET_REQUIRE": "cuda"}
    assert record.problems == ["nothing was timed"]


def test_the_stage_records_rows(quick: Path, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark(monkeypatch, read(quick / "t.json"))
    train.run_stage(record, rehearse=False)
    assert record.passed
    assert [(item["batch"], item["way"]) for item in record.items] == [
        ("4", EAGER),
        ("4", FUSED),
        ("8", EAGER),
        ("8", FUSED),
    ]
    assert "fused, batch 8: " in record.headline


def test_a_benchmark_that_crashes_leaves_what_it_measured(
    quick: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark(monkeypatch, read(quick / "t.json"), "import os; os.abort()")
    train.run_stage(record, rehearse=False)
    assert record.problems == ["training: ended by signal 6"]
    assert len(record.items) == 4


def test_only_what_is_of_this_project_is_a_problem(
    quick: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    beyond = [(FUSED, side.MEMORY), (COMPILE, side.COMPILER), (FUSED_COMPILE, side.ERROR)]
    benchmark(monkeypatch, with_failures(read(quick / "t.json"), *beyond, (FUSED, side.WRONG), (EAGER, side.ERROR)))
    train.run_stage(record, rehearse=False)
    assert record.problems == ["tiny, fused: no", "tiny, eager: no"]
