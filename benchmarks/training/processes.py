"""Runs jobs in processes of their own: one that crashes or hangs costs the way that it was at, not the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..process import Ended, item_of, run
from .job import Job

Item = dict[str, Any]
# Kinds of failures: not all of them are this project's.
MEMORY, COMPILER, WRONG, MISSING, ERROR = "memory", "compiler", "wrong", "missing", "error"
# A process gets this share of the time that is left: if it hangs, the other ways still have the rest.
_SHARE = 0.6
_LEAST_S = 30.0


def items_of(job: Job, deadline: float, log: Callable[[str], object]) -> list[Item]:
    """What the ways of a job report, each with its "way"; a way at which the process ended badly has "failed".

    The job is then run again without that way, as long as there is time.
    """
    failed: list[Item] = []
    while job.ways:
        left_s = deadline - time.monotonic()
        if left_s < _LEAST_S:
            return [*failed, *({"way": way, "left_out": True} for way in job.ways)]
        items, ended = _run(replace(job, seconds=min(job.seconds, left_s / 2)), left_s * _SHARE, log)
        found = [item for item in items if "way" in item]
        at = next((item["begun"] for item in reversed(items) if "begun" in item), None)
        if ended.problem is None or at is None:
            unfinished = [] if ended.problem is None else _unfinished(job, found)
            return [*failed, *found, *(_ended_badly(way, ended) for way in unfinished)]
        failed.append(_ended_badly(at, ended))
        if at not in job.ways:
            return failed
        job = job.without(at)
    return failed


def _run(job: Job, limit_s: float, log: Callable[[str], object]) -> tuple[list[Item], Ended]:
    items: list[Item] = []

    def take(line: str) -> None:
        item = item_of(line)
        log(line) if item is None else items.append(item)

    command = [sys.executable, "-m", "benchmarks.training.side", job.text()]
    return items, run(command, limit_s=limit_s, on_line=take)


def _unfinished(job: Job, found: list[Item]) -> list[str]:
    done = {item["way"] for item in found if "seconds" in item or "failed" in item or "largest" in item}
    return [way for way in job.ways if way not in done]


def _ended_badly(way: str, ended: Ended) -> Item:
    return {"way": way, "failed": ended.problem, "kind": ERROR}
