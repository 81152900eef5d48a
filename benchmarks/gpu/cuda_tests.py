"""The part ``tests``: pytest on the tests that need a GPU."""

from __future__ import annotations

import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .process import run
from .record import Record

TESTS, REHEARSED = "tests/kernels/test_cuda.py", "tests/operation/test_strategy.py"


@dataclass
class Results:
    """Outcomes of tests by name, and of each failure its first line."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def run_part(record: Record, rehearse: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        # -v: what is under way when the time is up can be seen.
        options = ["-v", "--all", "-p", "no:cacheprovider", f"--junitxml={report}", REHEARSED if rehearse else TESTS]
        ended = run([sys.executable, "-m", "pytest", *options], limit_s=record.left_s, on_line=record.log)
        record_results(record, report)
    # 1: tests failed, which is recorded by name.
    if ended.timed_out or ended.status not in (0, 1):
        record.problem(f"pytest: {ended.problem}")


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
            results.counts["skipped"] += 1
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
