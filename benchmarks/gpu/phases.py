"""The part ``phases``: `python -m benchmarks phases` on every tail of ResNet-50 and -18."""

from __future__ import annotations

from ..phases.columns import whole
from ..phases.summary import by_tail
from .benchmark import run_benchmark
from .record import Record

# Between two tails, the benchmark stops itself.
_TO_END_S = 6.0
FILE = "phases.json"


def run_part(record: Record, rehearse: bool) -> None:
    limit_s = record.left_s
    options = ["--seconds", str(max(1, int(limit_s - _TO_END_S)))]
    result = run_benchmark(record, "phases", options, to=FILE, limit_s=limit_s, rehearse=rehearse)
    if result is None:
        return
    for tail, ways in by_tail(result).items():
        record.add(tail=tail, **{way: whole(row) for way, row in ways.items()})
    for problem in result.details["problems"]:
        if not any(problem in known for known in record.problems):
            record.problem(problem)
    for tail in result.details["left_out"]:
        record.note(f"{tail}: no time was left")
    record.headline = f"{len(by_tail(result))} tails"
