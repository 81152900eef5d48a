"""The GPU stages, as far as they can be tried without a GPU: how they keep results and run out of time.

No test looks at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as stages
from benchmarks.gpu import build, machine, process, suite
from benchmarks.gpu.record import Record, report
from fused_resnet.kernel_build.recipes import Recipe
from fused_resnet.kernel_build.toolchain import CannotBuildError

MACHINE: dict[str, Any] = {"gpu": {"capability": "9.0"}, "torch": "2.11.0"}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, "stage", MACHINE)


def written(record: Record, folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"gpu-{record.stage}.json").read_text())
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


def test_children_left_behind_do_not_hold_up_the_stage() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    ended = process.run(python(code), limit_s=30, on_line=lambda _: None)
    assert ended.problem is None
    assert ended.seconds < 10


def test_signals_are_named() -> None:
    ended = process.run(python("import os; os.abort()"), limit_s=30, on_line=lambda _: None)
    assert ended.problem == "ended by signal 6"


# Records


def test_results_are_there_before_the_stage_ends(record: Record, tmp_path: Path) -> None:
    record.add(check="one", value=1.5)
    content = written(record, tmp_path)
    assert content["state"] == "running"
    assert content["machine"] == MACHINE
    assert content["items"] == [{"check": "one", "value": 1.5}]
    record.close()
    assert written(record, tmp_path)["state"] == "passed"
    seconds = record.seconds
    assert record.seconds == seconds  # it has stopped
    assert "torch: 2.11.0" in (tmp_path / "gpu-stage.log").read_text()


def test_items_of_a_process_are_told_from_its_text(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    report(check="two", problem="wrong")
    line = capsys.readouterr().out.rstrip("\n")
    record.take("some text")
    record.take("@item {broken")
    assert record.passed
    record.take(line)
    assert record.items == [{"check": "two", "problem": "wrong"}]
    assert record.problems == ["two: wrong"]


def test_a_stage_that_raises_is_recorded_and_others_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(record: Record, rehearse: bool) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(stages, "look_up", lambda: dict(MACHINE))
    monkeypatch.setattr(stages, "STAGES", {"suite": fails, "time": lambda record, rehearse: record.note("ran")})
    assert stages.main(["--out", str(tmp_path)]) == 1
    assert "KeyError: 'lost'" in json.loads((tmp_path / "gpu-suite.json").read_text())["problems"][0]
    assert json.loads((tmp_path / "gpu-time.json").read_text())["state"] == "passed"


def test_nothing_follows_a_failed_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(stages, "look_up", lambda: dict(MACHINE))
    chosen = {"build": lambda record, _: record.problem("no"), "time": lambda *_: ran.append("time")}
    monkeypatch.setattr(stages, "STAGES", chosen)
    assert stages.main(["--out", str(tmp_path), "--stage", ""]) == 1
    assert ran == []
    assert "not run" in capsys.readouterr().out


def test_without_a_gpu_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stages, "look_up", lambda: {"gpu": None})
    assert stages.main(["--out", str(tmp_path), "--stage", "time"]) == 1
    assert "torch finds no GPU" in json.loads((tmp_path / "gpu-time.json").read_text())["problems"][0]


def test_machine_is_known_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    facts = machine.facts()
    assert facts["commit"] == machine.UNKNOWN
    assert len(facts["sources"]) == 16
    assert facts["torch"] == torch.__version__
    assert machine.driver(tmp_path / "none") == machine.UNKNOWN


# build


def test_build_command_needs_no_pip() -> None:
    assert build.build_command(True, None)[1:] == ["setup.py", "build_ext", "--inplace"]
    assert build.build_command(True, "/folder")[1:] == ["setup.py", "build_ext", "--build-lib", "/folder"]
    assert build.build_command(False, None)[1:] == ["-m", "benchmarks.gpu.direct_build"]


def test_what_setup_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ninja(_: object) -> Path:
        raise CannotBuildError("no ninja")

    monkeypatch.setattr(build, "find_ninja", lambda _: Path("ninja"))
    for version, expected in (("82.0.1", None), ("68.1.2", "setuptools 68.1.2 cannot read pyproject.toml")):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        assert build.missing_for_setup() == expected
    monkeypatch.setattr(build, "find_ninja", no_ninja)
    assert build.missing_for_setup() == "no ninja"


def test_recipe_is_followed_without_setup(tmp_path: Path) -> None:
    from benchmarks.gpu import direct_build

    (tmp_path / "a.cu").write_text("a")
    (tmp_path / "b.cu").write_text("b")
    join = "import pathlib, sys; *f, _, to = sys.argv[1:]; "
    join += "pathlib.Path(to).write_text(''.join(pathlib.Path(p).read_text() for p in f))"
    # What compiles "a" to "a" and links it with "b" to "ab".
    made = Recipe((Path("a.cu"), Path("b.cu")), tuple(python(join)), tuple(python(join)), (), {})
    direct_build.build(made, tmp_path / "package" / "_C.so", tmp_path)
    assert (tmp_path / "package" / "_C.so").read_text() == "ab"
    assert [path.name for path in (tmp_path / "package").iterdir()] == ["_C.so"]


def test_failed_compilation_fails_the_stage(record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "build_command", lambda *_: python("raise SystemExit('nvcc: no')"))
    build.run_stage(record, rehearse=False)
    assert record.problems == ["compile, 9.0: exit status 1"]
    assert "nvcc: no" in (tmp_path / "gpu-stage.log").read_text()


# suite

JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.test_a" name="test_good[cuda]" time="0.1" />
<testcase classname="tests.test_a" name="test_bad[cuda]"><failure message="AssertionError: error 1&#10;assert 1">
def test_bad():
E   AssertionError: output</failure></testcase>
<testcase classname="" name="tests.test_b"><error message="collection failure">tests/test_b.py:3: in &lt;module&gt;
    import absent
E   ModuleNotFoundError: No module named 'absent'</error></testcase>
<testcase classname="tests.test_a" name="test_left"><skipped type="pytest.skip" message="no timm">x</skipped></testcase>
<testcase classname="tests.test_a" name="test_known"><skipped type="pytest.xfail" message="known">x</skipped></testcase>
</testsuite></testsuites>"""


def test_junit_is_counted_and_failures_are_named() -> None:
    results = suite.parse(JUNIT)
    assert results.counts == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1, "expected failures": 1}
    assert results.failures == {
        "tests.test_a::test_bad[cuda]": "AssertionError: error 1",
        "tests.test_b": "ModuleNotFoundError: No module named 'absent'",
    }
    assert results.skipped == {"no timm": 1}


def test_failed_tests_fail_the_stage(record: Record, tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    suite.record_results(record, tmp_path / "junit.xml")
    assert len(record.problems) == 2
    assert record.headline == "1 errors, 1 expected failures, 1 failed, 1 passed, 1 skipped"
    assert record.items[0]["passed"] == 1


def test_suite_without_results_fails_the_stage(record: Record, tmp_path: Path) -> None:
    suite.record_results(record, tmp_path / "none.xml")
    assert record.problems == ["pytest left no results: the log tells how far it came"]


def test_xdist_is_used_where_it_is_there() -> None:
    assert "-n" in suite.pytest_command(Path("x"), True, False)
    assert "-n" not in suite.pytest_command(Path("x"), False, False)


def test_files_that_use_hypothesis_are_collected_without_it(tmp_path: Path) -> None:
    """The stand-in is enough for the suite's own files, and their other tests run."""
    environment = {**os.environ, "PYTHONPATH": str(suite.STAND_INS)}
    junit = tmp_path / "junit.xml"
    command = suite.pytest_command(junit, False, False)
    files = ["tests/test_strategy.py", "tests/test_fuse_fuzz.py", "tests/test_residual_tail.py"]
    # The installed hypothesis registers a plugin, which the stand-in has no part in.
    command = [
        *command[: command.index("tests")],
        *files,
        "-p",
        "no:hypothesispytest",
        "-k",
        "strategy or draw or random or any",
    ]
    subprocess.run(command, env=environment, cwd=process.ROOT, capture_output=True, timeout=120)
    results = suite.parse(junit.read_text())
    assert results.skipped["hypothesis is not installed"] > 0
    assert results.counts["passed"] > 0
    assert results.counts["errors"] == 0
