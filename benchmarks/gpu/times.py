"""The stages ``time`` and ``backward``: ``python -m benchmarks tail`` in a process of its own, in bfloat16."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from ..result import Result, Row, read
from ..timing import Spread
from .process import run
from .record import Record

NETWORKS = ("resnet50", "resnet18")
PEERS = ("eager", "eager-contiguous", "moments", "materialise", "conv3-apart", "cudnn-fused", "cudnn-graph", "compile")
SECONDS = 420.0
# The process stops itself between two tails; one that hangs is stopped here.
LIMIT_S = 450.0


def time_forward(record: Record, rehearse: bool) -> None:
    """In training and in evaluation."""
    _measure(record, rehearse, "training", "eval")


def time_backward(record: Record, rehearse: bool) -> None:
    """In training, forward and backward as one, with the peak memory of each way."""
    _measure(record, rehearse, "training+backward")


def _measure(record: Record, rehearse: bool, *modes: str) -> None:
    if rehearse:
        record.note("a rehearsal on the CPU: no time here means anything")
    file = record.folder / f"gpu-{record.stage}-tails.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks", "tail", *options(modes, rehearse), "--json", str(file)]
    # A bar is for a terminal, and the threads for tensors that are not small.
    environment = {"TQDM_DISABLE": "1", **({"OMP_NUM_THREADS": "1"} if rehearse else {})}
    ended = run(command, limit_s=LIMIT_S, on_line=record.take, environment=environment)
    result = read(file) if file.exists() else None
    if result is not None:
        _take(record, result)
    if ended.problem is not None:
        record.problem(f"measuring: {ended.problem}")
    if result is None or not result.rows:
        record.problem("nothing was timed")


def options(modes: Sequence[str], rehearse: bool) -> list[str]:
    """Of the command line. The backend is named, so that none takes the place of another."""
    common = ["--networks", ",".join(NETWORKS), "--modes", ",".join(modes), "--peers", ",".join(PEERS)]
    device, backend = ("cpu", "emulated") if rehearse else ("cuda", "cuda")
    where = ["--device", device, "--backend", backend, "--dtype", "bfloat16", *(["--quick"] if rehearse else [])]
    return [*common, *where, "--seconds", str(SECONDS)]


def _take(record: Record, result: Result) -> None:
    """All that the process has found out."""
    items = list(items_of(result.rows))
    for item in items:
        record.add(**item)
    record.log(f"\n{result.table()}\n")
    problems: list[str] = result.details["problems"]
    for text in problems:
        record.problem(text)
    for text in result.notes:
        if text not in problems:
            record.note(text)
    compiled = sum("compile" in item["ways"] for item in items)
    record.headline = f"{len(items)} tails and modes timed, {compiled} by torch.compile"


def items_of(rows: Iterable[Row]) -> Iterable[dict[str, Any]]:
    """An item a tail and mode, in it the ways."""
    for (tail, mode), group in groupby(rows, lambda row: (row["tail"], row["mode"])):
        yield {"tail": tail, "mode": mode, "ways": {str(row["way"]): _plain(row) for row in group}}


def _plain(row: Row) -> dict[str, Any]:
    """What was measured and counted, as JSON has it."""
    named = {name: value for name, value in row.items() if name not in ("tail", "mode", "way", "kind", "blocks")}
    return {name: asdict(value) if isinstance(value, Spread) else value for name, value in named.items()}
