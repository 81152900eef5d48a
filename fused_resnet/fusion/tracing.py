"""A block's forward as a ``torch.fx`` graph, traced without leaving a mark on the block.

What a graph cannot show is refused here: control flow on values, other behaviour in training than in evaluation,
anything written or recorded, random numbers drawn and tensors made or read while tracing. Modules that do such things
inside a block become leaves of its graph, which are called as they are.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .generators import generator_states, restore_generators
from .leaves import is_leaf
from .settings import Settings
from .surroundings import Surroundings, take_out
from .tracer import BlockTracer, UntraceableError, other_modes


class _Outcome(NamedTuple):
    """The graph, or None and why not; and modules to show as leaves: they read their mode or cannot be traced."""

    graph: fx.Graph | None
    error: str
    readers: Set[nn.Module]


def trace(block: nn.Module, leaves: Set[nn.Module]) -> tuple[fx.Graph, Set[nn.Module]]:
    """The graph of the block's forward, arguments with defaults fixed at these, and all modules that it has as leaves.

    Args:
        block: traced in the state that it is in.
        leaves: modules to show as one call, beside those of `is_leaf`.

    Raises:
        UntraceableError: there is no graph that computes what the block does.
    """
    if isinstance(block, fx.GraphModule):
        raise UntraceableError("it is a torch.fx.GraphModule, which writes its class anew whenever its graph changes")
    while (settings := Settings(block, leaves)).refusal is not None:
        if settings.refused in (block, None):
            raise UntraceableError(settings.refusal)
        leaves = leaves | {settings.refused}
    while True:
        found = _trace_once(block, leaves, settings, training=True)
        nested = {module for module in found.readers - leaves - {block} if not is_leaf(module)}
        if not nested:
            break
        leaves = leaves | nested
    if found.graph is None:
        raise UntraceableError(found.error)
    if found.readers:
        other = _trace_once(block, leaves, settings, training=False)
        _require_same(found.graph, other, "between training and evaluation")
    with other_modes():
        other = _trace_once(block, leaves, settings, training=True)
        _require_same(found.graph, other, "with gradients or autocast on and off")
    return found.graph, leaves


def _require_same(graph: fx.Graph, other: _Outcome, between: str) -> None:
    if other.graph is None:
        raise UntraceableError(other.error)
    if _signature(graph) != _signature(other.graph):
        raise UntraceableError(f"its forward differs {between}")


def _signature(graph: fx.Graph) -> list[tuple[str, Any, str, str]]:
    return [(node.op, node.target, str(node.args), str(node.kwargs)) for node in graph.nodes]


def _trace_once(block: nn.Module, leaves: Set[nn.Module], settings: Settings, training: bool) -> _Outcome:
    tracer = BlockTracer(block, leaves, training)
    with _untouched(block, settings) as marks:
        error = _run(tracer)
    if tracer.wrote_mode:
        marks.append("its forward writes to the mode of a module")
    if not error and _kept(tracer):
        marks.append("its forward keeps what it computes")
    readers = tracer.readers if tracer.failed is None else tracer.readers | {tracer.failed}
    reasons = [*marks, *([error] if error else [])]
    return _Outcome(None, reasons[0], readers) if reasons else _Outcome(tracer.graph, "", readers)


def _run(tracer: BlockTracer) -> str:
    """Runs the block's forward; why there is no graph, or ""."""
    try:
        tracer.run()
    except UntraceableError as error:
        return str(error)
    except Exception as error:  # forward may raise anything when handed proxies
        return f"its forward cannot be traced: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    return ""


def _kept(tracer: BlockTracer) -> bool:
    """Whether the forward has put a value of the graph away where it is not looked for; takes it out of there."""
    for generation in range(3):
        if not tracer.kept_proxies():
            return False
        gc.collect(generation)  # what only cycles keep; the oldest generation takes a tenth of a second
    kept = tracer.kept_proxies()
    for proxy in kept:
        take_out(proxy, [kept])
    return bool(kept)


# Python's and numpy's random numbers, and what notes that tensors are saved in another way, are of the whole process.
_lock = threading.RLock()


@contextmanager
def _untouched(block: nn.Module, settings: Settings) -> Iterator[list[str]]:
    """Puts everything back that tracing the block changes, and notes what that was."""
    marks: list[str] = []
    draws = _Draws()  # type: ignore[no-untyped-call]
    with _lock, _noting_saved_tensors(marks):
        surroundings = Surroundings(block, settings)
        before_drawing = generator_states()
        try:
            with draws:
                yield marks
        finally:
            marks += [f"its forward writes to {what}" for what in surroundings.put_back()]
            if draws.seen or generator_states()[1:] != before_drawing[1:]:
                marks.append("its forward draws random numbers")
                restore_generators(before_drawing)


@contextmanager
def _noting_saved_tensors(marks: list[str]) -> Iterator[None]:
    """Notes where this thread begins to save tensors in another way: activation checkpointing and offloading do."""
    hooks: Any = torch.autograd.graph.saved_tensors_hooks
    enter: Callable[[Any], None] = hooks.__enter__
    thread = threading.get_ident()

    def enter_and_note(self: Any) -> None:
        if threading.get_ident() == thread:
            marks.append("its forward changes how tensors are saved")
        enter(self)

    hooks.__enter__ = enter_and_note
    try:
        yield
    finally:
        hooks.__enter__ = enter


class _Draws(TorchDispatchMode):
    """Notes whether PyTorch draws random numbers, and keeps it from writing to tensors and from reading numbers."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            raise UntraceableError("its forward writes to a tensor that is not part of its graph")
        if func is torch.ops.aten._local_scalar_dense.default:
            raise UntraceableError("its forward reads a number out of a tensor")
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))
