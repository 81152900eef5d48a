"""Times whole networks in every way that tells host from device: live, replayed as a CUDA graph, and traced.

python -m benchmarks.gpu.network_times training | evaluation [--rehearse]

A process of the parts of the same names. Times are in milliseconds:

==============  ===================================================================================================
live            a step in a row of steps, as in training: the slower one of host and device decides
host            until Python has queued a step, while the device waits for it
graph           a step replayed as a CUDA graph: the device alone
device          kernels of a traced step, where several run at a time their common time once
traced host     of the same trace, what the host took, with what tracing costs it
==============  ===================================================================================================
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import fused_resnet

from .. import network_ways, networks
from ..accuracy import relative_error
from ..clocks import consecutive
from ..network_ways import EAGER, FUSED, NORMS, RECOMPUTE
from ..tail.measure import TOLERANCE
from ..training.allocated import most_allocated
from ..training.job import Job
from ..training.trainer import Batch, Trainer, check_losses, network
from .record import report
from .trace import traced

Call = Callable[[], object]

_STEPS, _HOST_STEPS, _WARM_UP = 10, 5, 3


def training_jobs(rehearse: bool) -> Iterator[Job]:
    """The largest batch in all ways, those that were never measured last."""
    model, batches = (networks.TINY, (4,)) if rehearse else ("resnet50", (128, 256))
    for batch in batches:
        yield _job(model, batch, rehearse, (NORMS, RECOMPUTE) if batch == batches[-1] else ())


def evaluation_jobs(rehearse: bool) -> Iterator[Job]:
    for model in (networks.TINY,) if rehearse else ("resnet50", "resnet18"):
        for batch in (1, 4) if rehearse else (1, 128):
            yield _job(model, batch, rehearse)


def _job(model: str, batch: int, rehearse: bool, further: Sequence[str] = ()) -> Job:
    device, backend, size = ("cpu", "emulated", 32) if rehearse else ("cuda", "cuda", 224)
    ways = [EAGER, FUSED, *further]
    return Job(model, ways, batch, size, device, "bfloat16", backend, steps=_STEPS, in_a_row=_STEPS, seconds=60.0)


def train(job: Job) -> None:
    """Each way of a job, after its first losses were compared with those of the eager network."""
    made, batch = network(job), Batch(job, job.batch)
    eager: list[float] = []
    for way in job.ways:
        trainer = Trainer(way, made, batch)
        losses = trainer.first_losses()
        eager = eager or losses
        check_losses(losses, eager, job.dtype)
        peak = trainer.held_bytes + most_allocated(trainer.step, job.device)
        found = times(trainer.step, job.device)
        report(model=job.model, batch=job.batch, way=way, peak_mb=round(peak / 1e6), **found)
        del trainer


def evaluate(job: Job) -> None:
    """Each way of a job, after its output was compared with the eager network's."""
    batch = Batch(job, job.batch)
    eager: Tensor | None = None
    for way in job.ways:
        forward = network_ways.forward(way, network(job).eval())

        def call(forward: network_ways.Forward = forward) -> Tensor:
            with torch.no_grad(), batch.precision():
                return forward(batch.images)

        logits = call()
        eager = logits if eager is None else eager
        error, allowed = relative_error(logits, eager.double()), TOLERANCE[torch.bfloat16]
        wrong = {} if error <= allowed else {"problem": f"relative error {error:.2g}, expected at most {allowed}"}
        report(model=job.model, batch=job.batch, way=way, error=error, **wrong, **times(call, job.device))


def times(call: Call, device: str) -> dict[str, Any]:
    """Of a call, in milliseconds; what there is not on a CPU is None."""
    on_gpu = device == "cuda"
    for _ in range(_WARM_UP):
        call()
    found: dict[str, Any] = {"live_ms": _milliseconds(consecutive(call, _STEPS, device)), "host_ms": _host(call)}
    found["graph_ms"] = _milliseconds(consecutive(_replay(call), _STEPS, device)) if on_gpu else None
    return {**found, **traced(call)}


def _milliseconds(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)


def _host(call: Call) -> float:
    seconds = []
    for _ in range(_HOST_STEPS):
        _finish()
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    _finish()
    return _milliseconds(seconds)


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _replay(call: Call) -> Call:
    """The call as a graph. Warming up leaves everything allocated that must not be in a capture."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def attempt(what: Callable[[Job], None], job: Job) -> None:
    """A network that fails must not take the others with it."""
    try:
        what(job)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        report(model=job.model, batch=job.batch, problem=f"{type(error).__name__}: {said}")


def main(what: str, rehearse: bool) -> None:
    # As whoever runs a network of fixed sizes has it.
    torch.backends.cudnn.benchmark = True
    jobs = training_jobs(rehearse) if what == "training" else evaluation_jobs(rehearse)
    with fused_resnet.use_backend("emulated" if rehearse else "cuda"):
        for job in jobs:
            attempt(train if what == "training" else evaluate, job)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("training", "evaluation"))
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    main(arguments.what, arguments.rehearse)
