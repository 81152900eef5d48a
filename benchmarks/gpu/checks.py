"""Whether the kernels that were just built compute what they should: against float64, on streams, in graphs.

A process of the stage ``build``.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

import fused_resnet
from fused_resnet.strategy import Strategy, use_strategy

from ..accuracy import relative_error
from ..tails import RESNET18, RESNET50, Tail, TailShape
from .record import report

# Of the norm of the difference from float64: about four times what one rounding of every operand gives.
TOLERANCES = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.5e-2}
STRATEGIES: tuple[Strategy, ...] = ("moments", "materialise")
# Longer than any check's queued work takes: what does not wait for it is seen to be too early.
_DELAY_CYCLES = 100_000_000


def dtype_of(arithmetic: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, arithmetic.replace("tf32", "float32"))
    return dtype


@contextmanager
def arithmetic_of(arithmetic: str) -> Iterator[None]:
    former, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, arithmetic == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = former


def shapes(rehearse: bool) -> list[TailShape]:
    """Both branches projections; one; a strided one with a direct main branch; none."""
    batch, size, divisor = (2, 7, 16) if rehearse else (8, 14, 1)
    chosen = (RESNET50[0], RESNET50[3], RESNET18[1], RESNET18[2])
    return [shape.shrunk(batch, size, divisor) for shape in chosen]


def check_values(shape: TailShape, arithmetic: str, training: bool, device: str) -> None:
    """Output and running statistics, by each strategy where there is a choice."""
    dtype = dtype_of(arithmetic)
    tail = Tail(shape, dtype).to(device).train(training)
    inputs = tail.inputs(device, dtype)
    exact = copy.deepcopy(tail).double()
    expected = [exact(*(x.double() for x in inputs)), *_running_statistics(exact)]
    for strategy in STRATEGIES if training and shape.projections else STRATEGIES[:1]:
        tested = copy.deepcopy(tail)
        with use_strategy(strategy), arithmetic_of(arithmetic):
            results = [tested.fused(*inputs), *_running_statistics(tested)]
        report_errors(f"{shape.name}, {arithmetic}, {_mode(training)}, {strategy}", results, expected, arithmetic)


def _mode(training: bool) -> str:
    return "training" if training else "eval"


def _running_statistics(tail: Tail) -> list[Tensor]:
    return [buffer for buffer in tail.buffers() if buffer.is_floating_point()]


def report_errors(check: str, results: list[Tensor], expected: list[Tensor], arithmetic: str) -> None:
    errors = [relative_error(value, exact.double()) for value, exact in zip(results, expected, strict=True)]
    good = all(error <= TOLERANCES[arithmetic] for error in errors)  # false of NaN
    shown = [error if math.isfinite(error) else str(error) for error in errors]
    problem = {} if good else {"problem": f"relative errors {shown}, at most {TOLERANCES[arithmetic]}"}
    report(check=check, relative_errors=shown, **problem)


def check_side_stream(tail: Tail, inputs: tuple[Tensor, Tensor], expected: list[Tensor], name: str) -> None:
    """The inputs come late, on a stream of their own: a kernel on another stream would not wait for them."""
    late = [torch.zeros_like(x) for x in inputs]
    tested = copy.deepcopy(tail)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        torch.cuda._sleep(_DELAY_CYCLES)  # type: ignore[no-untyped-call]
        for empty, x in zip(late, inputs, strict=True):
            empty.copy_(x)
        y = tested.fused(*late)
    stream.synchronize()
    report_errors(f"side stream, {name}", [y, *_running_statistics(tested)], expected, "bfloat16")


def check_graph(tail: Tail, inputs: tuple[Tensor, Tensor], expected: list[Tensor], name: str) -> None:
    """Captured on zeros, replayed on the inputs: what is computed at the replay counts."""
    held = [torch.zeros_like(x) for x in inputs]
    tested = copy.deepcopy(tail)
    before = copy.deepcopy(tail.state_dict())
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        tested.fused(*held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = tested.fused(*held)
    tested.load_state_dict(before)
    for empty, x in zip(held, inputs, strict=True):
        empty.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    report_errors(f"graph, {name}", [y, *_running_statistics(tested)], expected, "bfloat16")
    if tail.training and int(tested.norm.num_batches_tracked or 0) != int(tail.norm.num_batches_tracked or 0) + 1:
        report(check=f"graph, {name}", problem=f"num_batches_tracked is {tested.norm.num_batches_tracked}")


def check_queues() -> None:
    """Streams and graphs, in evaluation and training, without gradients."""
    for training in (False, True):
        tail = Tail(RESNET50[0].shrunk(8, 14, 1), torch.bfloat16).cuda().train(training)
        inputs = tail.inputs("cuda", torch.bfloat16)
        for strategy in STRATEGIES:
            exact = copy.deepcopy(tail)
            with use_strategy(strategy):
                expected = [exact.fused(*inputs), *_running_statistics(exact)]
                for check in (check_side_stream, check_graph):
                    name = f"{_mode(training)}, {strategy}"
                    attempt(f"{check.__name__}, {name}", check, tail, inputs, expected, name)


def attempt(check: str, function: Callable[..., object], *arguments: object) -> None:
    """One check that raises must not prevent the others."""
    try:
        function(*arguments)
    except Exception as error:
        report(check=check, problem=f"{type(error).__name__}: {error}")


@torch.no_grad()
def main(rehearse: bool) -> None:
    backend = "emulated" if rehearse else "cuda"
    problem = fused_resnet.available_backends()["emulated" if rehearse else "cuda"]
    report(
        check=f"backend {backend}", summary=fused_resnet.backend.summary(), **({"problem": problem} if problem else {})
    )
    if problem:
        return
    torch.manual_seed(0)
    device = "cpu" if rehearse else "cuda"
    with fused_resnet.use_backend("emulated" if rehearse else "cuda"):
        if not rehearse:
            check_queues()
        for arithmetic in TOLERANCES:
            for shape in shapes(rehearse):
                for training in (True, False):
                    attempt(f"{shape.name}, {arithmetic}", check_values, shape, arithmetic, training, device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    main(parser.parse_args().rehearse)
    sys.exit(0)
