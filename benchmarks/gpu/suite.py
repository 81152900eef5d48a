"""The stage ``suite``: pytest on all tests that this interpreter can collect."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .process import run
from .record import Record

LIMIT_S = 440.0
STAND_INS = Path(__file__).with_name("stand_ins")
# What tests need beyond pytest and torch; they say themselves what they skip.
OPTIONAL = ("hypothesis", "numpy", "xdist", "timm", "torchvision", "transformers", "tqdm", "matplotlib", "mlxtend")
# Processes that share the GPU: each has a context of half a GiB there.
MOST_WORKERS = 8
REHEARSED = ("tests/test_backend.py", "tests/test_strategy.py", "tests/test_running_statistics.py")


@dataclass
class Results:
    """Outcomes of tests by name, and of each failure its first line."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def run_stage(record: Record, rehearse: bool) -> None:
    missing = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    environment, stand_in = {}, "hypothesis" in missing
    if missing:
        record.note(f"not installed: {', '.join(missing)}")
    if stand_in:
        record.note("tests that draw their cases with hypothesis are skipped: a stand-in takes its place")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(STAND_INS), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        command = pytest_command(report, "xdist" not in missing, rehearse)
        record.log(" ".join(command))
        ended = run(command, limit_s=LIMIT_S, on_line=record.log, environment=environment)
        record_results(record, report)
    if ended.timed_out:
        record.note("tests that were under way when the time was up are among those counted as passed")
    # 1: tests failed, which is recorded by name.
    if ended.timed_out or ended.status not in (0, 1):
        record.problem(f"pytest: {ended.problem}")


def pytest_command(report: Path, xdist: bool, rehearse: bool) -> list[str]:
    # -v: what is under way when the time is up can be seen. A file that cannot be collected does not stop the others.
    options = ["-v", "--continue-on-collection-errors", "--durations=15", "-p", "no:cacheprovider"]
    # The emulator's tests need no GPU, but minutes of one.
    selected = list(REHEARSED) if rehearse else ["tests", "-k", "not emulated"]
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    parallel = ["-n", str(workers)] if xdist and not rehearse else []
    return [sys.executable, "-m", "pytest", *options, *parallel, f"--junitxml={report}", *selected]


def record_results(record: Record, report: Path) -> None:
    if not report.exists():
        record.problem("pytest left no results: the log tells how far it came")
        return
    results = parse(report.read_text(encoding="utf-8"))
    record.add(**results.counts, skipped_because=dict(results.skipped))
    for name, line in results.failures.items():
        record.add(test=name, problem=line)
    record.headline = ", ".join(f"{number} {what}" for what, number in sorted(results.counts.items()))
    if not results.counts["passed"]:
        record.problem("no test passed")


def parse(xml: str) -> Results:
    """Of pytest's junit file."""
    results = Results()
    for case in ET.fromstring(xml).iter("testcase"):
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        skip = case.find("skipped")
        name = "::".join(filter(None, [case.get("classname"), case.get("name")]))
        if bad is not None:
            results.counts["failed" if bad.tag == "failure" else "errors"] += 1
            results.failures[name] = _first_line(bad)
        elif skip is not None:
            expected = "xfail" in (skip.get("type") or "")
            results.counts["expected failures" if expected else "skipped"] += 1
            if not expected:
                results.skipped[skip.get("message") or ""] += 1
        else:
            results.counts["passed"] += 1
    return results


def _first_line(element: ET.Element) -> str:
    """What went wrong: of a file that could not be collected, that is in its text's last lines."""
    message = (element.get("message") or "").strip().splitlines()
    text = (element.text or "").strip().splitlines()
    raised = [line[1:].strip() for line in text if line.startswith("E ")]
    if message and message[0] != "collection failure":
        return message[0][:300]
    return (raised or message or text or ["no message"])[-1][:300]
