"""The parts ``training`` and ``evaluation``: whole networks, eager and fused, in a process that reports as it goes."""

from __future__ import annotations

import sys

from .process import run
from .record import Record


def run_training(record: Record, rehearse: bool) -> None:
    _run(record, "training", rehearse)
    steps = [f"{i['way']} {i['batch']}: {i['live_ms']:.1f} ms" for i in record.items if "live_ms" in i]
    record.headline = ", ".join(steps)


def run_evaluation(record: Record, rehearse: bool) -> None:
    _run(record, "evaluation", rehearse)
    record.headline = f"{sum('live_ms' in item for item in record.items)} networks, batches and ways"


def _run(record: Record, what: str, rehearse: bool) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.network_times", what, *(["--rehearse"] if rehearse else [])]
    # A tail that the kernels do not compute is an error.
    environment = {} if rehearse else {"FUSED_RESNET_REQUIRE": "cuda"}
    ended = run(command, limit_s=record.left_s, on_line=record.take, environment=environment)
    if rehearse:
        record.note("a rehearsal on the CPU, of a small network: no time here means anything")
    if ended.problem is not None:
        record.problem(f"{what}: {ended.problem}")
    if not any("live_ms" in item for item in record.items):
        record.problem("nothing was timed")
