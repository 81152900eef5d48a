"""The process that runs one network on one batch in all ways, in turn, or searches a way's largest batch.

It reports what it begins, so that whoever reads it knows in what it ended, and what it finds.
"""

from __future__ import annotations

import contextlib
import gc
import time
from typing import Any

import torch

import fused_resnet

from .. import network_ways, networks
from ..clocks import consecutive
from ..peak import most_allocated
from ..process import report
from .apart import apart
from .job import Job
from .largest import search
from .trainer import Batch, Evaluator, Runner, Trainer, WrongError, network

MEMORY, COMPILER, WRONG, MISSING, ERROR = "memory", "compiler", "wrong", "missing", "error"


def measure(job: Job) -> None:
    """Prepares and checks every way, then times them in turn; a way that fails is reported and left out."""
    made, batch = network(job), Batch(job, job.batch)
    eager: list[float] = []
    runners: dict[str, Runner] = {}
    for way in sorted({network_ways.EAGER, *job.ways}, key=network_ways.WAYS.index):
        report(begun=way)
        try:
            runner: Runner = (Evaluator if job.evaluation else Trainer)(way, made, batch)
            results = runner.first_results()
            eager = eager or results
            runner.check(results, eager)
            runner.forget_gradients()
            peak = most_allocated(runner.step, job.device)
        except Exception as error:
            report(way=way, **failure(way, error))
            if way == network_ways.EAGER:
                return
            continue
        runner.forget_gradients()
        if way in job.ways:
            runners[way] = runner
            losses = {} if job.evaluation else {"losses": results}
            report(way=way, **losses, held_bytes=runner.held_bytes, peak_bytes=runner.held_bytes + peak)
    report(begun=None)
    for way, seconds in in_turn(runners, job).items():
        report(way=way, seconds=seconds)
    for way, runner in runners.items():
        if job.device == "cuda" and not network_ways.compiles(way):
            report(way=way, apart=apart(runner.step))
            runner.forget_gradients()


def in_turn(runners: dict[str, Runner], job: Job) -> dict[str, list[float]]:
    """Seconds of each way's steps: a few in a row, then the next way's, so that a drift meets all alike."""
    seconds: dict[str, list[float]] = {way: [] for way in runners}
    deadline = time.monotonic() + job.seconds
    # An interrupt is the end of the time: what there is counts.
    with contextlib.suppress(KeyboardInterrupt):
        for turn in range(-(-job.steps // job.in_a_row)):
            if turn > 1 and time.monotonic() > deadline:
                break
            taken = {}
            for way, runner in runners.items():
                taken[way] = consecutive(runner.step, job.in_a_row, job.device)
                runner.forget_gradients()
            for way, new in taken.items():
                seconds[way] += new
    return seconds


def find_largest(job: Job) -> None:
    """Searches the largest batch of the job's only way."""
    (way,) = job.ways
    report(begun=way)
    try:
        report(way=way, largest=search(lambda batch: _fits(job, way, batch), job.search_from))
    except Exception as error:
        report(way=way, **failure(way, error))


def _fits(job: Job, way: str, batch: int) -> bool:
    try:
        trainer = Trainer(way, network(job), Batch(job, batch))
        # The optimizer's state is there from the first step on.
        for _ in range(2):
            trainer.step()
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        trainer = None  # type: ignore[assignment]
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    return True


def failure(way: str, error: Exception) -> dict[str, Any]:
    """What failed, and of what kind it is: not all of it is this project's."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return {"failed": f"{type(error).__name__}: {lines[0][:300]}", "kind": _kind(way, error)}


def _kind(way: str, error: Exception) -> str:
    if isinstance(error, torch.cuda.OutOfMemoryError) or "not enough memory" in str(error):
        return MEMORY
    if isinstance(error, networks.UnavailableError):
        return MISSING
    if network_ways.compiles(way):
        return COMPILER
    return WRONG if isinstance(error, WrongError) else ERROR


def main() -> None:
    job = Job.of_command_line()
    if job.device == "cuda":
        torch.cuda.set_device(job.index)
    # As whoever trains a network of fixed sizes has it.
    torch.backends.cudnn.benchmark = True
    with fused_resnet.use_backend(job.backend):  # type: ignore[arg-type]
        if job.search_from:
            find_largest(job)
        else:
            measure(job)


if __name__ == "__main__":
    main()
