"""How the sanitizers' output is read, when it proves anything, and the cases that they watch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fused_resnet
from benchmarks import process
from benchmarks.gpu import sanitize, small_cases, tools
from benchmarks.gpu.record import Record
from fused_resnet import residual_tail
from fused_resnet.backends.kernels import loading
from fused_resnet.operation.branches import Branch

MODULE = loading.load("_emulated")[0]
NEEDS_EMULATOR = pytest.mark.skipif(MODULE is None, reason="the emulator was not built")
MACHINE: dict[str, Any] = {"gpu": {"capability": "9.0"}, "torch": "2.11.0"}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, "sanitize", MACHINE, 60)


CLEAN = ["========= COMPUTE-SANITIZER", "case ok: one", "========= ERROR SUMMARY: 0 errors"]
INVALID = [
    "========= COMPUTE-SANITIZER",
    "========= Invalid __global__ write of size 4 bytes",
    "=========     at void fused_resnet::forward_kernel<fused_resnet::Float32Products, 1>(fused_resnet::Work)+0x50",
    "=========     Address 0x7f0000000080 is out of bounds",
    "=========     and is 1 bytes after the nearest allocation at 0x7f0000000000 of size 128 bytes",
    "========= ",
    "========= ERROR SUMMARY: 3 errors",
]
RACE = [
    "========= COMPUTE-SANITIZER",
    "========= Error: Race reported between Write access at a+0x1 and Read access at b+0x2 [64 hazards]",
    "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)",
]
NO_RACE = ["========= COMPUTE-SANITIZER", "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"]
REJECTED = ["Error: unrecognised option '--kernel-nmae'"]
ENDED = process.Ended(0, 1.0, False)


@pytest.mark.parametrize(
    ("lines", "errors", "finding"),
    [
        (CLEAN, 0, None),
        (INVALID, 3, "Invalid __global__ write of size 4 bytes"),
        (RACE, 1, "Error: Race reported between Write access at a+0x1 and Read access at b+0x2 [64 hazards]"),
        (NO_RACE, 0, None),
        (REJECTED, None, None),
        (["========= COMPUTE-SANITIZER"], None, None),
        ([*CLEAN, *INVALID], 3, "Invalid __global__ write of size 4 bytes"),  # of two processes
    ],
)
def test_sanitizer_output(lines: list[str], errors: int | None, finding: str | None) -> None:
    summary = sanitize.parse(lines)
    assert summary.errors == errors
    assert summary.findings == ([finding] if finding else [])


def test_only_a_whole_run_of_a_tool_that_finds_something_is_a_proof() -> None:
    def problem(lines: list[str], ended: process.Ended = ENDED, done: int = 2, planted: int | None = 1) -> str | None:
        return sanitize.problem_of(sanitize.parse(lines), ended, done, 2, planted)

    assert problem(CLEAN) is None
    assert problem(NO_RACE) is None
    assert problem(INVALID) == "3 errors, the first: Invalid __global__ write of size 4 bytes"
    assert "option not understood: Error: unrecognised option '--kernel-nmae'" in str(problem(REJECTED))
    assert problem(["========= COMPUTE-SANITIZER"]) == "no summary was printed"
    assert problem(CLEAN, done=1) == "1 cases ran, and 2 are every kernel's"
    assert "time limit" in str(problem(CLEAN, ended=process.Ended(-9, 60.0, True)))
    assert "planted error was not found" in str(problem(CLEAN, planted=0))
    assert "planted error was not found" in str(problem(CLEAN, planted=None))


def test_warnings_of_racecheck_are_a_problem() -> None:
    summary = sanitize.parse(["========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)"])
    assert (summary.errors, summary.warnings) == (0, 2)
    assert sanitize.problem_of(summary, ENDED, 1, 1, 1) == "2 warnings"


def test_options_are_those_that_the_version_knows(record: Record) -> None:
    known = "--print-limit arg\n--report-api-errors arg"
    assert sanitize.options("memcheck", known, record)[-2:] == ["--report-api-errors", "no"]
    assert sanitize.options("racecheck", known, record)[-2:] == ["--print-limit", "50"]
    assert record.notes == []
    assert sanitize.options("memcheck", "--print-limit", record) == ["--tool", "memcheck", "--print-limit", "50"]
    assert record.notes == ["memcheck: this compute-sanitizer knows no --report-api-errors; it runs without"]


@pytest.mark.parametrize("name", ["compute-sanitizer", "ncu"])
def test_tools_are_looked_for_in_all_places(name: str, tmp_path: Path) -> None:
    def find() -> Path | None:
        environ = {"PATH": str(tmp_path / "bin"), "CUDA_HOME": str(tmp_path / "home")}
        return tools.find(name, environ, roots=(tmp_path, tmp_path / "opt"), purelib=tmp_path)

    assert find() is None
    places = ("nvidia/cu13/bin", "opt/nsight-compute/2025.3", "cuda-13.0/bin", f"cuda/{name}", "home/bin", "bin")
    for place in places:
        path = tmp_path / place / name
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        assert find() == path


def test_missing_sanitizer_fails_the_part(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize, "find", lambda _: None)
    sanitize.run_part(record, rehearse=False)
    assert record.problems == [f"compute-sanitizer was not found {tools.PLACES}"]


STAND_IN = """\
#!/bin/sh
case "$*" in
  --help) echo "--print-limit arg --report-api-errors arg --kernel-name arg";;
  --version) echo "version 1";;
  *planted*) echo "========= ERROR SUMMARY: 1 error";;
  *) echo "case ok: a"; echo "case ok: b"; echo "========= ERROR SUMMARY: {errors} errors";;
esac
"""


@pytest.mark.parametrize("errors", [0, 2])
def test_whole_part_with_a_stand_in(
    errors: int, record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(STAND_IN.format(errors=errors))
    tool.chmod(0o755)
    monkeypatch.setattr(sanitize, "find", lambda _: tool)
    monkeypatch.setattr(sanitize, "_compile_planted", lambda record, into, _: into)
    monkeypatch.setattr(sanitize, "first_cases", lambda: ["a", "b"])
    sanitize.run_part(record, rehearse=False)
    assert [item["tool"] for item in record.items] == list(sanitize.TOOLS)
    assert [item["errors"] for item in record.items] == [errors] * 2
    assert all(item["planted_errors_found"] == 1 and item["cases"] == 2 for item in record.items)
    assert record.passed is (errors == 0)


def test_cases_of_every_kernel_come_first() -> None:
    """And are enough where there is no time for more."""
    first = small_cases.first_cases()
    assert small_cases.cases()[: len(first)] == first
    for case in small_cases.cases():
        assert replace(case, layout=first[0].layout) in first


def test_no_case_begins_when_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(small_cases, "errors_of", lambda *_: {"output": 0.0})
    monkeypatch.setattr(small_cases.loading, "load", lambda _: (object(), None))
    monkeypatch.setattr(fused_resnet, "use_backend", lambda _: fused_resnet.strategy.use_strategy("auto"))
    assert small_cases.main(rehearse=True, seconds=0.0) == 0
    assert capsys.readouterr().out == ""
    assert small_cases.main(rehearse=True, seconds=60.0) == 0
    assert capsys.readouterr().out.count(small_cases.CASE) == len(small_cases.cases())


def test_cases_name_every_kernel_once() -> None:
    chosen = small_cases.cases()
    assert len(set(chosen)) == len(chosen)
    assert {(case.arithmetic, case.projections) for case in chosen} == {
        (arithmetic, projections) for arithmetic in small_cases.TOLERANCES for projections in (0, 1, 2)
    }
    assert {case.layout for case in chosen} == set(small_cases.LAYOUTS)
    assert {(case.training, case.phases) for case in chosen} == {(False, False), (True, False), (True, True)}


@pytest.mark.emulated
@NEEDS_EMULATOR
@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("wide", "resnet50"))) for name in small_cases.LAYOUTS],
)
def test_small_cases_are_right(layout: str) -> None:
    with fused_resnet.use_backend("emulated"):
        for case in small_cases.cases():
            if case.layout == layout and case.arithmetic in ("float32", "bfloat16"):
                errors = small_cases.errors_of(MODULE, case, "cpu")
                assert max(errors.values()) <= small_cases.TOLERANCES[case.arithmetic], f"{case}: {errors}"


@pytest.mark.emulated
@NEEDS_EMULATOR
@pytest.mark.parametrize("training", [True, False])
def test_small_cases_see_a_wrong_gradient(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_cases.Case("float32", 2, "fast", training, phases=False)

    def wrong(main: Branch, shortcut: Branch) -> torch.Tensor:
        x = shortcut.x
        return residual_tail(main, replace(shortcut, x=x + 0.1 * (x - x.detach())))

    monkeypatch.setattr(small_cases, "residual_tail", wrong)
    with fused_resnet.use_backend("emulated"):
        errors = small_cases.errors_of(MODULE, case, "cpu")
    assert [name for name, error in errors.items() if error > 0.01] == ["gradient of shortcut.x"]


def test_every_tensor_of_a_small_case_is_compared() -> None:
    case = small_cases.Case("float32", 1, "fast", training=True, phases=False)
    with fused_resnet.use_backend("reference"):
        errors = small_cases.errors_of(None, case, "cpu")
    buffers = {f"main.norm.{name}" for name in small_cases.BUFFERS}
    sources = ("main.x", "main.weight", "main.norm.weight", "main.norm.bias", "shortcut.x")
    assert set(errors) == {"output", *buffers, *(f"gradient of {name}" for name in sources)}
