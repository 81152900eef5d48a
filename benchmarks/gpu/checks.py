"""Whether the kernels that were just built compute what they should: against float64, on streams, in graphs;
forward and backward.

A process of the part ``checks``.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import fused_resnet
from fused_resnet.operation.computation import Strategy
from fused_resnet.strategy import use_strategy

from ..accuracy import relative_error
from ..gradients import incoming_gradient
from ..modes import Mode
from ..tails import RESNET18, RESNET50, Tail, TailShape
from .record import report

# Of the norm of the difference from float64: about four times what one rounding of every operand gives.
TOLERANCES = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.5e-2}
MODES = (Mode("training", True, True), Mode("frozen norms", False, True), Mode("eval", False, False))
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


@dataclass(frozen=True)
class Run:
    """A tail in a mode, with its inputs and its output's gradient."""

    tail: Tail
    mode: Mode
    inputs: tuple[Tensor, Tensor]
    dy: Tensor

    def results(self, tail: Tail) -> dict[str, Tensor]:
        """By the kernels, of a copy of the run's own tail: its running statistics are updated."""
        y = tail.fused(*self.inputs)
        return _named(tail, y, tail.gradients(y, self.inputs, self.dy) if self.mode.backward else {})

    def zeroed(self) -> Run:
        """The same with zeros in place of what is given from outside."""
        x, before = (torch.zeros_like(t).requires_grad_(t.requires_grad) for t in self.inputs)
        return replace(self, inputs=(x, before), dy=torch.zeros_like(self.dy))

    @torch.no_grad()
    def fill(self, run: Run) -> None:
        """Copies what is given to another run from outside."""
        for ours, theirs in zip((*self.inputs, self.dy), (*run.inputs, run.dy), strict=True):
            ours.copy_(theirs)


def make(shape: TailShape, arithmetic: str, mode: Mode, device: str) -> tuple[Run, dict[str, Tensor]]:
    """A run, and what it should give: the same numbers computed by the standard operations in float64."""
    dtype = dtype_of(arithmetic)
    tail = Tail(shape, dtype).to(device).train(mode.training)
    x, before = (t.requires_grad_(mode.backward) for t in tail.inputs(device, dtype))
    exact = copy.deepcopy(tail).double()
    inputs = (_exactly(x), _exactly(before))
    with torch.set_grad_enabled(mode.backward):
        z = exact.sum(*inputs)
        dy = incoming_gradient(z.detach()).to(dtype)
        y = z.relu()
        gradients = exact.gradients(y, inputs, dy.double()) if mode.backward else {}
    return Run(tail, mode, (x, before), dy), _named(exact, y, gradients)


def _exactly(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_(x.requires_grad)


def _named(tail: Tail, y: Tensor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    running = {name: buffer for name, buffer in tail.named_buffers() if buffer.is_floating_point()}
    return {"output": y.detach(), **running, **{f"gradient of {name}": g for name, g in gradients.items()}}


def check_values(shape: TailShape, arithmetic: str, mode: Mode, device: str) -> None:
    """By each strategy where there is a choice."""
    run, expected = make(shape, arithmetic, mode, device)
    for strategy in STRATEGIES if mode.training and shape.projections else STRATEGIES[:1]:
        with use_strategy(strategy), arithmetic_of(arithmetic), torch.set_grad_enabled(mode.backward):
            results = run.results(copy.deepcopy(run.tail))
        report_errors(f"{shape.name}, {arithmetic}, {mode.name}, {strategy}", results, expected, arithmetic)


def report_errors(check: str, results: Mapping[str, Tensor], expected: Mapping[str, Tensor], arithmetic: str) -> None:
    errors = {name: relative_error(results[name], exact.double()) for name, exact in expected.items()}
    limit = TOLERANCES[arithmetic]
    wrong = [name for name, error in errors.items() if not error <= limit]  # NaN, too
    shown = {name: error if math.isfinite(error) else str(error) for name, error in errors.items()}
    problem = {"problem": f"relative error above {limit} of {', '.join(wrong)}"} if wrong else {}
    report(check=check, relative_errors=shown, **problem)


def check_side_stream(run: Run, expected: Mapping[str, Tensor], name: str) -> None:
    """What is given comes late, on a stream of its own: a kernel on another stream would not wait for it."""
    late, tested = run.zeroed(), copy.deepcopy(run.tail)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        torch.cuda._sleep(_DELAY_CYCLES)  # type: ignore[no-untyped-call]
        late.fill(run)
        results = late.results(tested)
    stream.synchronize()
    report_errors(f"side stream, {name}", results, expected, "bfloat16")


def check_graph(run: Run, expected: Mapping[str, Tensor], name: str) -> None:
    """Captured on zeros, replayed on what is given: what is computed at the replay counts."""
    held, tested = run.zeroed(), copy.deepcopy(run.tail)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        held.results(tested)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = held.results(tested)
    tested.load_state_dict(run.tail.state_dict())
    held.fill(run)
    graph.replay()
    torch.cuda.synchronize()
    report_errors(f"graph, {name}", results, expected, "bfloat16")
    batches = int(tested.norm.num_batches_tracked or 0) - int(run.tail.norm.num_batches_tracked or 0)
    if batches != run.mode.training:
        report(check=f"graph, {name}", problem=f"num_batches_tracked has grown by {batches}")


def check_queues() -> None:
    """Streams and graphs, in each mode and by each strategy, against the same kernels outside of them."""
    for mode in MODES:
        run, _ = make(RESNET50[0].shrunk(8, 14, 1), "bfloat16", mode, "cuda")
        for strategy in STRATEGIES:
            with use_strategy(strategy), torch.set_grad_enabled(mode.backward):
                expected = run.results(copy.deepcopy(run.tail))
                for check in (check_side_stream, check_graph):
                    name = f"{mode.name}, {strategy}"
                    attempt(f"{check.__name__}, {name}", check, run, expected, name)


def attempt(check: str, function: Callable[..., object], *arguments: object) -> None:
    """One check that raises must not prevent the others."""
    try:
        function(*arguments)
    except Exception as error:
        report(check=check, problem=f"{type(error).__name__}: {error}")


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
                for mode in MODES:
                    name = f"{shape.name}, {arithmetic}, {mode.name}"
                    attempt(name, check_values, shape, arithmetic, mode, device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    main(parser.parse_args().rehearse)
    sys.exit(0)
