"""Runs one of the project's benchmarks as part of a part, and takes over what it wrote before it ended."""

from __future__ import annotations

import sys
from pathlib import Path

from ..result import Result, read
from .process import run
from .record import Record

# A bar is for a terminal. A tail that the kernels do not compute is an error.
_ON_GPU = {"TQDM_DISABLE": "1", "FUSED_RESNET_REQUIRE": "cuda"}
# Tensors are small there, and threads are for those that are not.
_REHEARSED = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
_OPTIONS = ["--device", "cuda", "--backend", "cuda", "--dtype", "bfloat16"]
_REHEARSED_OPTIONS = ["--device", "cpu", "--backend", "emulated", "--dtype", "bfloat16", "--quick"]


def run_benchmark(
    record: Record, name: str, options: list[str], *, to: str, limit_s: float, rehearse: bool
) -> Result | None:
    """The result, None where nothing was written. Its file is ``to`` in the record's folder.

    How the process ended is a problem of the part, unless it was stopped at its limit and has left a result: whatever
    was measured by then counts.
    """
    file = Path(record.folder, to)
    file.unlink(missing_ok=True)
    on_device = _REHEARSED_OPTIONS if rehearse else _OPTIONS
    command = [sys.executable, "-m", "benchmarks", name, *on_device, *options, "--json", str(file)]
    record.log(" ".join(command[1:]))
    environment = _REHEARSED if rehearse else _ON_GPU
    ended = run(command, limit_s=limit_s, on_line=record.log, environment=environment)
    result = read(file) if file.exists() else None
    if rehearse:
        record.note(f"{name}: a rehearsal on the CPU: no time here means anything")
    if ended.timed_out and result is not None and result.rows:
        record.note(f"{name}: {ended.problem}: what was measured until then is kept")
    elif ended.problem is not None:
        record.problem(f"{name}: {ended.problem}")
    if result is None or not result.rows:
        record.problem(f"{name}: nothing was timed")
        return None
    return result
