"""The parts of `make gpu`, as far as they can be tried without one: how they keep results and run out of time.

No test looks at a time.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as parts
from benchmarks.gpu import benchmark, build, compiled, correctness, cuda_tests, machine, networks, phases, process
from benchmarks.gpu.record import Record, report
from benchmarks.gpu.story import story
from benchmarks.result import Result, read

MACHINE: dict[str, Any] = {"gpu": {"capability": "9.0"}, "torch": "2.11.0", "sources": "0123"}
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, "part", MACHINE, 60.0)


def written(folder: Path, part: str = "part") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "gpu.json").read_text())["parts"][part]
    return content


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# Processes


def test_output_comes_line_by_line_and_the_status_tells() -> None:
    lines: list[str] = []
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr, flush=True); sys.exit(3)"
    ended = process.run(python(code), limit_s=30, on_line=lines.append)
    assert lines == ["out", "err"]
    assert (ended.status, ended.timed_out, ended.problem) == (3, False, "exit status 3")
    assert process.run(python(""), limit_s=30, on_line=lines.append).problem is None


def test_time_limit_lets_a_process_write_what_it_has() -> None:
    lines: list[str] = []
    code = (
        "import time\nprint('begun', flush=True)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: print('interrupted', flush=True)"
    )
    ended = process.run(python(code), limit_s=1.0, on_line=lines.append)
    assert lines == ["begun", "interrupted"]
    assert ended.timed_out
    assert ended.problem is not None
    assert ended.problem.startswith("stopped at its time limit")


def test_time_limit_ends_a_process_that_does_not_end_itself() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    ended = process.run(python(code), limit_s=0.8, on_line=lambda _: None, grace_s=0.3)
    assert ended.timed_out
    assert ended.seconds < 10


def test_children_left_behind_do_not_hold_up_the_part() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    ended = process.run(python(code), limit_s=30, on_line=lambda _: None)
    assert ended.problem is None
    assert ended.seconds < 10


def test_signals_are_named() -> None:
    ended = process.run(python("import os; os.abort()"), limit_s=30, on_line=lambda _: None)
    assert ended.problem == "ended by signal 6"


# Records


def test_results_are_there_before_the_part_ends(record: Record, tmp_path: Path) -> None:
    record.add(check="one", value=1.5)
    assert written(tmp_path)["state"] == "running"
    assert written(tmp_path)["items"] == [{"check": "one", "value": 1.5}]
    assert json.loads((tmp_path / "gpu.json").read_text())["machine"] == MACHINE
    record.close()
    assert written(tmp_path)["state"] == "passed"
    seconds = record.seconds
    assert record.seconds == seconds  # it has stopped
    assert "torch: 2.11.0" in (tmp_path / "gpu.log").read_text()


def test_parts_of_the_same_code_share_a_file(tmp_path: Path) -> None:
    """So that one that is run again, by itself, replaces its own results alone."""
    for number in (1, 2):
        for part in ("build", "phases"):
            Record(tmp_path, part, MACHINE, 60).add(number=number)
    Record(tmp_path, "phases", MACHINE, 60).add(number=3)
    assert written(tmp_path, "build")["items"] == [{"number": 2}]
    assert written(tmp_path, "phases")["items"] == [{"number": 3}]
    Record(tmp_path, "phases", {**MACHINE, "sources": "other"}, 60)
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["phases"]


def test_items_of_a_process_are_told_from_its_text(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    report(check="two", problem="wrong")
    line = capsys.readouterr().out.rstrip("\n")
    record.take("some text")
    record.take("@item {broken")
    assert record.passed
    record.take(line)
    assert record.items == [{"check": "two", "problem": "wrong"}]
    assert record.problems == ["two: wrong"]


# A run


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs these functions as the parts of a machine with a GPU."""

    def run(folder: Path, functions: dict[str, Any], *arguments: str) -> int:
        monkeypatch.setattr(parts, "look_up", lambda: dict(MACHINE))
        monkeypatch.setattr(parts, "PARTS", {name: parts.Part(60, function) for name, function in functions.items()})
        return parts.main(["--out", str(folder), *arguments])

    return run


def fails(record: Record, rehearse: bool) -> None:
    raise KeyError("lost")


def notes(record: Record, rehearse: bool) -> None:
    record.note("ran")


def test_a_part_that_raises_is_recorded_and_others_run(only: Any, tmp_path: Path) -> None:
    assert only(tmp_path, {"tests": fails, "phases": notes}) == 1
    assert "KeyError: 'lost'" in written(tmp_path, "tests")["problems"][0]
    assert written(tmp_path, "phases")["state"] == "passed"


def test_nothing_follows_a_failed_build(only: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []
    chosen = {"build": lambda record, _: record.problem("no"), "phases": lambda *_: ran.append("phases")}
    assert only(tmp_path, chosen, "--part", "") == 1
    assert ran == []
    assert "not run" in capsys.readouterr().out


def test_one_part_runs_alone(only: Any, tmp_path: Path) -> None:
    assert only(tmp_path, {"tests": fails, "phases": notes}, "--part", "phases") == 0
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["phases"]


def test_last_parts_get_what_the_others_have_left() -> None:
    assert parts.limit_of("counters", 300.0) == parts.PARTS["counters"].limit_s
    assert parts.limit_of("counters", 20.0) == 20.0


def test_without_time_a_part_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PARTS", {"phases": parts.Part(60, fails)})
    assert parts._run_part(Record(tmp_path, "phases", MACHINE, 0.0), False).problems == ["no time was left"]


def test_without_a_gpu_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts, "look_up", lambda: {"gpu": None})
    assert parts.main(["--out", str(tmp_path), "--part", "phases"]) == 1
    assert "torch finds no GPU" in written(tmp_path, "phases")["problems"][0]


def test_whole_run_ends_within_eight_minutes() -> None:
    assert parts.LIMIT_S <= 8 * 60
    assert list(parts.PARTS) == [
        "build",
        "checks",
        "tests",
        "phases",
        "training",
        "evaluation",
        "compiled",
        "sanitize",
        "counters",
    ]


def test_machine_is_known_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    facts = machine.facts()
    assert facts["commit"] == machine.UNKNOWN
    assert len(facts["sources"]) == 16
    assert facts["torch"] == torch.__version__
    assert machine.driver(tmp_path / "none") == machine.UNKNOWN


def test_story_of_a_whole_run_fits_one_screen(tmp_path: Path) -> None:
    """Of as many networks and tails as the parts have, every part with a problem."""
    records = {name: Record(tmp_path, name, MACHINE, 60) for name in parts.PARTS}
    longest = [{"kernel": "void fused_resnet::forward_kernel<...>", "ms": 1.5, "runs": 16}]
    times = {"live_ms": 52.9, "host_ms": 50.0, "graph_ms": 34.0, "device_ms": 33.0, "longest": longest}
    for part, models, batches in (("training", ["resnet50"], (128, 256)), ("evaluation", ["a", "b"], (1, 128))):
        for model in models:
            for batch in batches:
                for way in ("eager", "fused"):
                    records[part].add(model=model, batch=batch, way=way, **times)
    for row in {row["tail"]: row for row in read(RESULTS / "phases-h100.json").rows}.values():
        records["phases"].add(tail=row["tail"], eager=5.73, moments=2.88, materialise=7.57, library=3.7)
    for record in records.values():
        record.problem("a long problem " * 100)
    told = story(list(records.values()), list(parts.PARTS))
    assert len(told.splitlines()) <= 50
    assert max(map(len, told.splitlines())) < 240
    for word in ("52.9", "resnet50 layer4.1", "5.73", "FAILED"):
        assert word in told


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
    return read(RESULTS / "phases-h100.json")


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
