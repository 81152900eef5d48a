"""The process that runs one network on one batch in all ways, in turn, or searches a way's largest batch.

It reports what it begins, so that whoever reads it knows in what it ended, and what it finds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import fused_resnet

from .. import networks
from ..clocks import Call, consecutive
from ..process import report
from ..trace import busy, longest, most_allocated, traced
from .job import Job
from .processes import COMPILER, ERROR, MEMORY, MISSING, WRONG
from .runners import Evaluation, Runner, Training, WrongError, network_of

_CALLS, _WARM_UP = 5, 3
# The largest batch is searched in steps of a sixteenth.
_RESOLUTION = 16


def measure(job: Job) -> None:
    """Prepares and checks every way, then times them in turn; a way that fails is reported and left out."""
    made = network_of(job)
    eager: list[float] = []
    runners: dict[str, Runner] = {}
    for way in sorted({networks.EAGER, *job.ways}, key=networks.WAYS.index):
        report(begun=way)
        try:
            runner: Runner = (Evaluation if job.evaluation else Training)(way, made, job, job.batch)
            results = runner.first_results()
            eager = eager or results
            runner.check(results, eager)
            runner.forget_gradients()
            peak = most_allocated(runner.step, job.device)
        except Exception as error:
            report(way=way, **failure(way, error))
            if way == networks.EAGER:
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
        if job.device == "cuda" and not networks.compiles(way):
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


def apart(call: Call) -> dict[str, Any]:
    """Milliseconds of host and device apart, on a GPU, and the longest kernels.

    "host": until Python has queued a step. "graph": a step replayed as a CUDA graph; None where it cannot be captured.
    "device": kernels of a traced step, where several run at a time their common time once.
    """
    kernels = traced(call, _CALLS)
    device = {"device": busy(kernels) / 1e3 / _CALLS, "longest": longest(kernels, _CALLS)}
    found: dict[str, Any] = {"host": 1e3 * host_seconds(call), **device}
    try:
        replayed = consecutive(_replay(call), _CALLS, "cuda")
    except RuntimeError as error:
        return {**found, "graph": None, "not captured": str(error).partition("\n")[0][:200]}
    return {**found, "graph": 1e3 * statistics.median(replayed)}


def host_seconds(call: Call) -> float:
    """The median of several calls, each of which finds the device idle."""
    finish: Callable[[], object] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds = []
    for _ in range(_CALLS):
        finish()
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    finish()
    return statistics.median(seconds)


def _replay(call: Call) -> Call:
    """The call as a graph. Warming up leaves everything allocated that must not be in a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def find_largest(job: Job) -> None:
    """Searches the largest batch of the job's only way."""
    (way,) = job.ways
    report(begun=way)
    try:
        report(way=way, largest=search(lambda batch: _fits(job, way, batch), job.search_from))
    except Exception as error:
        report(way=way, **failure(way, error))


def search(fits: Callable[[int], bool], begin: int) -> int | None:
    """Doubles from `begin` until it does not fit, then bisects to a sixteenth; None where not even `begin` fits."""
    if not fits(begin):
        return None
    good, bad = begin, 2 * begin
    while fits(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // _RESOLUTION):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _fits(job: Job, way: str, batch: int) -> bool:
    runner: Training | None = None
    try:
        runner = Training(way, network_of(job), job, batch)
        # The optimizer's state is there from the first step on.
        for _ in range(2):
            runner.step()
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        runner = None
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    return True


def failure(way: str, error: Exception) -> dict[str, Any]:
    """What failed, and of what kind it is."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return {"failed": f"{type(error).__name__}: {lines[0][:300]}", "kind": _kind(way, error)}


def _kind(way: str, error: Exception) -> str:
    if isinstance(error, torch.cuda.OutOfMemoryError) or "not enough memory" in str(error):
        return MEMORY
    if isinstance(error, networks.UnavailableError):
        return MISSING
    if networks.compiles(way):
        return COMPILER
    return WRONG if isinstance(error, WrongError) else ERROR


def main(job: Job) -> None:
    if job.device == "cuda":
        torch.cuda.set_device(job.index)
    # As whoever trains a network of fixed sizes has it.
    torch.backends.cudnn.benchmark = True
    with fused_resnet.use_backend(job.backend):
        (find_largest if job.search_from else measure)(job)


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
