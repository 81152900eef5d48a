"""What the parts of `make gpu` make of the processes that they run. No test looks at a time."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import benchmark, build, compiled, correctness, cuda_tests, networks, phases, process
from benchmarks.gpu.record import Record
from benchmarks.result import Result, read

MACHINE: dict[str, Any] = {"gpu": {"capability": "9.0"}, "torch": "2.11.0", "sources": "0123"}
MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "phases-h100.json"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, "part", MACHINE, 60.0)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# build


def test_build_is_the_command_that_users_have(record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert build.COMMAND[1:] == ["-m", "fused_resnet", "build"]
    monkeypatch.setattr(build, "COMMAND", python("raise SystemExit('fused_resnet: the kernels were not built: no')"))
    build.run_part(record, rehearse=False)
    assert record.problems == ["9.0: exit status 1"]
    assert "the kernels were not built: no" in (tmp_path / "gpu.log").read_text()


def test_rehearsed_build_leaves_the_users_cache_alone(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print(os.environ['TORCH_CUDA_ARCH_LIST'], os.environ['FUSED_RESNET_CACHE'])"
    lines: list[str] = []
    monkeypatch.setattr(build, "COMMAND", python(code))
    monkeypatch.setattr(record, "log", lines.append)
    build.run_part(record, rehearse=True)
    architecture, folder = lines[0].split()
    assert architecture == "9.0"
    assert not Path(folder).exists()


# checks


DOCTOR = {
    "versions": {},
    "backends": {},
    "checks": [{"problem": None}, {"problem": "output is off"}],
    "problems": ["p"],
}


def test_doctor_and_checks_are_asked(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = 'print(\'@item {"check": "a"}\'); print(\'@item {"check": "b", "problem": "wrong"}\')'
    monkeypatch.setattr(correctness, "DOCTOR", python(f"print('a warning'); print({json.dumps(DOCTOR, indent=1)!r})"))
    monkeypatch.setattr(correctness, "CHECKS", python(checked))
    correctness.run_part(record, rehearse=False)
    assert record.headline == "doctor: 1 of 2; 1 of 2 checks passed"
    assert record.problems == ["doctor: p", "b: wrong"]


def test_doctor_that_crashes_is_a_problem_and_the_checks_run(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "DOCTOR", python("import os; os.abort()"))
    monkeypatch.setattr(correctness, "CHECKS", python(""))
    correctness.run_part(record, rehearse=False)
    assert record.problems[0].startswith("doctor: ended by signal 6")
    assert record.problems[1] == "nothing was checked"


# tests

JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.test_a" name="test_good[cuda]" time="0.1" />
<testcase classname="tests.test_a" name="test_bad[cuda]"><failure message="AssertionError: error 1&#10;assert 1">
def test_bad():
E   AssertionError: output</failure></testcase>
<testcase classname="" name="tests.test_b"><error message="collection failure">tests/test_b.py:3: in &lt;module&gt;
    import absent
E   ModuleNotFoundError: No module named 'absent'</error></testcase>
<testcase classname="tests.test_a" name="test_left"><skipped type="pytest.skip" message="no timm">x</skipped></testcase>
</testsuite></testsuites>"""


def test_junit_is_counted_and_failures_are_named() -> None:
    results = cuda_tests.parse(JUNIT)
    assert results.counts == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1}
    assert results.failures == {
        "tests.test_a::test_bad[cuda]": "AssertionError: error 1",
        "tests.test_b": "ModuleNotFoundError: No module named 'absent'",
    }
    assert results.skipped == {"no timm": 1}


def test_failed_tests_fail_the_part(record: Record, tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    cuda_tests.record_results(record, tmp_path / "junit.xml")
    assert len(record.problems) == 2
    assert record.headline == "1 errors, 1 failed, 1 passed, 1 skipped"
    assert record.items[0]["passed"] == 1


def test_every_case_of_the_tests_for_gpus_runs(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], **_: object) -> process.Ended:
        commands.append(command)
        return process.Ended(0, 1.0, False)

    monkeypatch.setattr(cuda_tests, "run", run)
    cuda_tests.run_part(record, rehearse=False)
    assert [(cuda_tests.TESTS in command, "--all" in command) for command in commands] == [(True, True)]
    assert (Path(__file__).parents[2] / cuda_tests.TESTS).is_file()


def test_tests_without_results_fail_the_part(record: Record, tmp_path: Path) -> None:
    cuda_tests.record_results(record, tmp_path / "none.xml")
    assert record.problems == ["pytest left no results: the log tells how far it came"]


# Benchmarks


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In the place of a benchmark's process: leaves a result, then runs code. The commands and how they are run."""

    def set_to(result: Result | None, code: str = "") -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        run = process.run

        def run_other(command: list[str], **options: Any) -> process.Ended:
            seen.append({"command": " ".join(command), **options})
            if result is not None:
                result.write(Path(command[command.index("--json") + 1]))
            return run(python(code), **options)

        monkeypatch.setattr(benchmark, "run", run_other)
        return seen

    return set_to


@pytest.fixture
def measured() -> Result:
    return read(MEASURED)


def test_benchmarks_never_fall_back_from_the_kernels(record: Record, instead: Any) -> None:
    seen = instead(None)
    phases.run_part(record, rehearse=False)
    assert "-m benchmarks phases --device cuda --backend cuda" in seen[0]["command"]
    assert seen[0]["environment"]["FUSED_RESNET_REQUIRE"] == "cuda"
    assert record.problems == ["phases: nothing was timed"]


def test_benchmark_that_crashes_leaves_what_it_measured(record: Record, instead: Any, measured: Result) -> None:
    instead(measured, "import os; os.abort()")
    phases.run_part(record, rehearse=False)
    assert record.problems == ["phases: ended by signal 6"]
    assert len(record.items) == 15
    assert record.items[0] == {
        "tail": "resnet50 layer1.0",
        "eager": pytest.approx(5.73, abs=0.01),
        "moments": pytest.approx(2.88, abs=0.01),
        "materialise": pytest.approx(7.57, abs=0.01),
        "library": pytest.approx(3.70, abs=0.01),
    }


def test_benchmark_that_is_stopped_at_its_limit_leaves_what_it_measured(
    record: Record, instead: Any, measured: Result
) -> None:
    instead(measured, "import time; time.sleep(60)")
    record.limit_s = record.seconds + 1
    phases.run_part(record, rehearse=False)
    assert record.passed
    assert any("what was measured until then is kept" in note for note in record.notes)
    assert record.headline == "15 tails"


def test_results_of_an_earlier_run_do_not_count(record: Record, instead: Any, measured: Result) -> None:
    measured.write(record.folder / phases.FILE)
    instead(None, "raise SystemExit(2)")
    phases.run_part(record, rehearse=False)
    assert record.problems == ["phases: exit status 2", "phases: nothing was timed"]


def test_problems_of_a_result_are_the_part_s(record: Record, instead: Any, measured: Result) -> None:
    instead(replace(measured, details={**measured.details, "problems": ["moments differs"]}), "raise SystemExit(1)")
    phases.run_part(record, rehearse=False)
    assert record.problems == ["phases: exit status 1", "moments differs"]


def test_what_a_compiler_does_wrong_is_no_problem_of_the_kernels(
    record: Record, instead: Any, measured: Result
) -> None:
    failed = [("compile", "error"), ("eager", "memory"), ("eager", "wrong")]
    failures = [{"where": f"resnet50, {way}", "way": way, "kind": kind, "what": kind} for way, kind in failed]
    row = {"model": "resnet50", "batch": 128, "way": "eager", "step": 34.5, "tail": "t", "time": 1.0}
    instead(replace(measured, rows=[row], details={"failures": failures, "problems": []}))
    compiled.run_part(record, rehearse=False)
    assert record.problems == ["resnet50, eager: wrong"]
    assert {"resnet50, compile: error", "resnet50, eager: memory"} <= set(record.notes)
    assert record.headline == "a training step: eager 34.5 ms; 0 tails by torch.compile"


# Whole networks


def test_networks_are_reported_one_by_one(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    item = json.dumps({"model": "resnet50", "batch": 128, "way": "eager", "live_ms": 34.5})
    run = process.run
    code = f"import os; print('@item ' + {item!r}, flush=True); os.abort()"
    monkeypatch.setattr(networks, "run", lambda _, **options: run(python(code), **options))
    networks.run_training(record, rehearse=False)
    assert record.problems == ["training: ended by signal 6"]
    assert record.headline == "eager 128: 34.5 ms"
