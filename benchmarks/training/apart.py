"""What a call takes of host and device apart, on a GPU.

========  ============================================================================================================
host      until Python has queued a step, while the device waits for it
graph     a step replayed as a CUDA graph: the device alone
device    kernels of a traced step, where several run at a time their common time once
========  ============================================================================================================
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from ..clocks import Call, consecutive
from ..trace import busy, longest, traced

_CALLS, _WARM_UP = 5, 3


def apart(call: Call) -> dict[str, Any]:
    """Milliseconds of each, and the longest kernels; what is not captured in a graph has no time of its own."""
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
    seconds = []
    for _ in range(_CALLS):
        _finish()
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    _finish()
    return statistics.median(seconds)


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
