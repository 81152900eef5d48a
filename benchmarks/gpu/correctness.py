"""The part ``checks``: the doctor, and the checks of values, streams and graphs."""

from __future__ import annotations

import json
import sys

from .process import run
from .record import Record

DOCTOR = [sys.executable, "-m", "fused_resnet", "doctor", "--json"]
CHECKS = [sys.executable, "-m", "benchmarks.gpu.checks"]


def run_part(record: Record, rehearse: bool) -> None:
    ask_doctor(record)
    checks = [*CHECKS, *(["--rehearse"] if rehearse else [])]
    ended = run(checks, limit_s=record.left_s, on_line=record.take)
    if ended.problem is not None:
        record.problem(f"checks: {ended.problem}")
    checked = [item for item in record.items if "check" in item]
    good = sum("problem" not in item for item in checked)
    record.headline += f"; {good} of {len(checked)} checks passed"
    if not checked:
        record.problem("nothing was checked")


def ask_doctor(record: Record) -> None:
    """Runs the self-test of every backend on every device."""
    lines: list[str] = []
    ended = run(DOCTOR, limit_s=record.left_s, on_line=lines.append)
    try:
        found = json.loads("\n".join(lines[next(i for i, line in enumerate(lines) if line == "{") :]))
    except (StopIteration, ValueError):
        record.headline = "the doctor said nothing"
        record.problem(f"doctor: {ended.problem}: {' / '.join(lines[-3:])}")
        return
    passed = sum(check["problem"] is None for check in found["checks"])
    record.add(doctor=found["versions"], backends=found["backends"], passed=passed, of=len(found["checks"]))
    record.headline = f"doctor: {passed} of {len(found['checks'])}"
    for problem in found["problems"]:
        record.problem(f"doctor: {problem}")
