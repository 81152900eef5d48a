"""The benchmark ``training``: options, tables, what becomes of failures. No test sees a time."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_jobs import JOB, times

from benchmarks.__main__ import main
from benchmarks.errors import EXTRA, UserError

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks import training  # noqa: E402
from benchmarks.networks import COMPILE, EAGER, FUSED, FUSED_COMPILE  # noqa: E402
from benchmarks.result import Result, number, read  # noqa: E402
from benchmarks.training import job as plan  # noqa: E402
from benchmarks.training import processes, shown  # noqa: E402
from benchmarks.training.job import Job  # noqa: E402


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick run with the processes themselves."""
    folder = tmp_path_factory.mktemp("training")
    files = ["--json", str(folder / "t.json"), "--plot", str(folder / "t.svg")]
    assert main(["training", "--quick", "--device", "cpu", *files, "--memory-limit", "1"]) == 0
    return folder


@pytest.mark.slow
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


@pytest.mark.slow
def test_words_and_small_table_come_from_the_file_alone(quick: Path) -> None:
    result: Result = read(quick / "t.json")
    header, rows = shown.headline(result)
    assert [row[:2] for row in rows] == [["tiny, 8", EAGER], ["tiny, 8", FUSED]]
    assert all("(measured)" in name for name in header[2:5])
    assert header[5] == "largest batch (computed)"
    assert all(int(row[5].replace(",", "")) > 8 for row in rows)
    assert "synthetic images" in shown.caption(result)
    assert "reference backend" in shown.caption(result)


def test_failures_become_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = {"way": FUSED, "failed": "RuntimeError: no", "kind": processes.ERROR}
    late = {"way": COMPILE, "left_out": True}
    monkeypatch.setattr(training, "items_of", lambda job, *_: [*times([EAGER]), failed, late])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["training", "--quick", "--batches", "4", "--json", str(tmp_path / "t.json")]) == 0
    result = read(tmp_path / "t.json")
    assert [row["way"] for row in result.rows] == [EAGER]
    assert "tiny, batch 4, fused: RuntimeError: no" in result.notes
    assert "tiny, batch 4, compile: no time was left." in result.notes
    assert [failure["way"] for failure in result.details["failures"]] == [FUSED]


def test_host_and_device_are_told_apart_where_the_process_could(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernels = [{"kernel": "k", "ms": 1.0, "runs": 2.0}]
    told = {"host": 3.0, "graph": None, "device": 2.0, "longest": kernels, "not captured": "no"}
    monkeypatch.setattr(training, "items_of", lambda *_: [*times([EAGER]), {"way": EAGER, "apart": told}])
    assert main(["training", "--quick", "--device", "cpu", "--batches", "4", "--json", f"{tmp_path}/t.json"]) == 0
    result = read(tmp_path / "t.json")
    assert [result.rows[0][name] for name in ("host", "graph", "device")] == [3.0, None, 2.0]
    assert result.details["longest"] == [{"model": "tiny", "batch": 4, "way": EAGER, "kernels": kernels}]
    assert "tiny, batch 4, eager: not captured: no" in result.notes


def test_evaluation_is_a_mode_of_the_jobs() -> None:
    cpu = torch.device("cpu")
    assert not any(job.evaluation for job in plan.jobs(arguments("--quick"), cpu))
    jobs = plan.jobs(arguments("--quick", "--evaluation", "--batches", "1"), cpu)
    assert [(job.batch, job.evaluation) for job in jobs] == [(1, True)]


def test_nothing_timed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "items_of", lambda *_: [])
    with pytest.raises(UserError, match="nothing was timed"):
        training.run(arguments("--quick", "--device", "cpu"))


def arguments(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    training.add_arguments(parser)
    return parser.parse_args(options)


@pytest.mark.parametrize(
    ("option", "value"), [("--models", "resnet19"), ("--ways", "slow"), ("--batches", "0"), ("--steps", "1")]
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
    assert [(job.model, *job.ways, job.search_from) for job in plan.searches(jobs)] == [
        ("a", EAGER, 8),
        ("b", EAGER, 8),
        ("a", FUSED, 8),
        ("b", FUSED, 8),
        ("a", COMPILE, 8),
        ("b", COMPILE, 8),
    ]
