"""The part ``sanitize``: compute-sanitizer's tools over small cases of every kernel.

Ahead of each tool's run, it has to find a mistake that is there on purpose (``planted.cu``), with the same options.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fused_resnet.kernel_build.toolchain import CannotBuildError, find_nvcc

from ..process import Ended, run
from .record import Record
from .small_cases import CASE, cases, first_cases
from .tools import PLACES, find

TOOLS = ("memcheck", "racecheck")
# The rehearsal compiles for what a GPU of the data centres is.
REHEARSED_CAPABILITY = "9.0"
PLANTED = Path(__file__).with_name("planted.cu")
PLANTED_LIMIT_S = 12.0
# Between the last case and the end of a tool's process.
_TO_END_S = 6.0
# Each tensor gets an allocation of its own, whose bounds memcheck knows.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
_REJECTED = re.compile(r"unrecogni[sz]ed|unknown (option|argument)|invalid (option|argument|value for)|ambiguous", re.I)
_MOST_FINDINGS = 8


@dataclass
class Summary:
    """What a tool printed: `errors` is None where it did not come to its end."""

    errors: int | None = None
    warnings: int = 0
    findings: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)  # complaints about options


def run_part(record: Record, rehearse: bool) -> None:
    sanitizer = None if rehearse else find("compute-sanitizer")
    if rehearse:
        _rehearse(record)
    elif sanitizer is None:
        record.problem(f"compute-sanitizer was not found {PLACES}")
    else:
        _run_tools(record, sanitizer)


def _run_tools(record: Record, sanitizer: Path) -> None:
    known = _output(sanitizer, "--help")
    record.log(f"{sanitizer}: {_output(sanitizer, '--version')}")
    with tempfile.TemporaryDirectory() as folder:
        planted = _compile_planted(record, Path(folder, "planted"), record.machine["gpu"]["capability"])
        for i, tool in enumerate(TOOLS):
            limit_s = record.left_s / (len(TOOLS) - i)
            _run_tool(record, [str(sanitizer), *options(tool, known, record)], tool, planted, limit_s)
    tools = [item for item in record.items if "tool" in item]
    verdicts = [f"{of['tool']} {of['errors']} errors in {of['cases']} of {of['of']} cases" for of in tools]
    record.headline = ", ".join(verdicts)


def _output(command: Path, *arguments: str) -> str:
    done = subprocess.run([command, *arguments], capture_output=True, text=True, errors="replace", timeout=60)
    return done.stdout + done.stderr


def options(tool: str, known: str, record: Record) -> list[str]:
    """Those that this version's help names: an unknown one would end the run before it begins."""
    chosen = ["--tool", tool]
    wanted = [["--print-limit", "50"]]
    if tool == "memcheck":
        # torch tries calls that may fail. Ours are checked where they are made.
        wanted.append(["--report-api-errors", "no"])
    for option, *value in wanted:
        if option in known:
            chosen += [option, *value]
        else:
            record.note(f"{tool}: this compute-sanitizer knows no {option}; it runs without")
    return chosen


def _compile_planted(record: Record, into: Path, capability: str) -> Path | None:
    """None where it cannot be had, which leaves open whether the tools find anything."""
    try:
        nvcc = find_nvcc(os.environ)
        command: list[str | Path] = [nvcc.path, f"-arch=sm_{capability.replace('.', '')}", PLANTED, "-o", into]
        problem = run(command, limit_s=PLANTED_LIMIT_S, on_line=record.log).problem
    except CannotBuildError as error:
        problem = str(error)
    if problem is None:
        return into
    record.problem(f"planted.cu did not compile: {problem}")
    return None


def _run_tool(record: Record, command: list[str], tool: str, planted: Path | None, limit_s: float) -> None:
    found, started = None, record.seconds
    if planted is not None:
        lines = _run(record, [*command, str(planted), tool], PLANTED_LIMIT_S)[0]
        found = parse(lines).errors
    limit_s -= record.seconds - started
    small = [sys.executable, "-m", "benchmarks.gpu.small_cases", "--seconds", str(max(1, int(limit_s - _TO_END_S)))]
    lines, ended = _run(record, [*command, *small], limit_s)
    summary, done = parse(lines), sum(line.startswith(CASE) for line in lines)
    problem = problem_of(summary, ended, done, len(first_cases()), found)
    record.add(
        tool=tool,
        errors=summary.errors,
        warnings=summary.warnings,
        planted_errors_found=found,
        cases=done,
        of=len(cases()),
        seconds=round(ended.seconds, 1),
        options=command[1:],
        findings=summary.findings,
        **({"problem": problem} if problem else {}),
    )


def _run(record: Record, command: Sequence[str], limit_s: float) -> tuple[list[str], Ended]:
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        record.log(line)

    record.log(" ".join(command))
    return lines, run(command, limit_s=limit_s, on_line=take, environment=ENVIRONMENT, grace_s=5)


def parse(lines: Iterable[str]) -> Summary:
    """The tools' own lines begin with a rule; racecheck has a summary of its own form."""
    summary = Summary()
    for line in lines:
        text = line.removeprefix("=========").removeprefix(" ") if line.startswith("=========") else None
        if text is None:
            if _REJECTED.search(line) and not line.startswith(CASE):
                summary.rejected.append(line.strip())
        elif found := re.match(r"ERROR SUMMARY: (\d+) errors?", text):
            summary.errors = (summary.errors or 0) + int(found[1])
        elif found := re.match(r"RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?, (\d+) warnings?\)", text):
            summary.errors = (summary.errors or 0) + int(found[1])
            summary.warnings += int(found[2])
        elif text[:1].strip() and text != "COMPUTE-SANITIZER" and len(summary.findings) < _MOST_FINDINGS:
            summary.findings.append(text)
    return summary


def problem_of(summary: Summary, ended: Ended, done: int, expected: int, planted_found: int | None) -> str | None:
    """Why a tool's run is no proof, None where it is one."""
    problems = []
    if summary.rejected:
        problems.append(f"option not understood: {summary.rejected[0]}")
    if summary.errors is None:
        problems.append("no summary was printed")
    elif summary.errors:
        problems.append(f"{summary.errors} errors, the first: {(summary.findings or ['not shown'])[0]}")
    if summary.warnings:
        problems.append(f"{summary.warnings} warnings")
    if done < expected:
        problems.append(f"{done} cases ran, and {expected} are every kernel's")
    if ended.problem:
        problems.append(ended.problem)
    if not planted_found:
        problems.append("whether it finds anything is open: the planted error was not found")
    return "; ".join(problems) or None


def _rehearse(record: Record) -> None:
    """The small cases on the emulator, and the planted mistakes as far as a compiler."""
    command = [sys.executable, "-m", "benchmarks.gpu.small_cases", "--rehearse"]
    lines, ended = _run(record, command, record.left_s)
    done, expected = sum(line.startswith(f"{CASE}ok") for line in lines), len(cases())
    if ended.problem or done < expected:
        record.problem(f"{done} of {expected} small cases are right; {ended.problem}")
    record.add(small_cases=done)
    record.headline = f"{done} small cases on the emulator, no sanitizer"
    with tempfile.TemporaryDirectory() as folder:
        _compile_planted(record, Path(folder, "planted"), REHEARSED_CAPABILITY)
