"""The parts of `make gpu`, as far as they can be tried without one: how they keep results and run out of time.

No test looks at a time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import process
from benchmarks.gpu import __main__ as parts
from benchmarks.gpu import machine
from benchmarks.gpu.parts import Part
from benchmarks.gpu.record import Record
from benchmarks.process import report

MACHINE: dict[str, Any] = {"gpu": {"capability": "9.0"}, "torch": "2.11.0", "sources": "0123"}


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
    ended = process.run(python(code), limit_s=3.0, on_line=lines.append)
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
        monkeypatch.setattr(parts, "PARTS", {name: Part(60, function) for name, function in functions.items()})
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
    monkeypatch.setattr(parts, "PARTS", {"phases": Part(60, fails)})
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
    assert len(facts["sources"]) == 12
    assert facts["torch"] == torch.__version__
    assert machine.driver() == machine.UNKNOWN


def test_story_is_a_line_a_part(tmp_path: Path) -> None:
    records = [Record(tmp_path, name, MACHINE, 60) for name in parts.PARTS]
    records[0].headline = "compiled in 32 s"
    for record in records[1:-1]:
        record.problem("a long problem " * 100)
    told = parts.story(records[:-1], list(parts.PARTS)).splitlines()
    assert len(told) == 2 + len(parts.PARTS)
    assert max(map(len, told)) < 140
    assert "compiled in 32 s" in told[2]
    assert "FAILED" in told[3]
    assert "not run" in told[-1]
