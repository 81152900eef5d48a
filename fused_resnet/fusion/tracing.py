"""A block's forward as a ``torch.fx`` graph, traced without leaving a mark on the block.

What a graph cannot show is refused here: control flow on values, other behaviour in training than in evaluation,
attributes written, random numbers drawn and tensors made while tracing. Modules that do such things inside a block
become leaves of its graph, which are called as they are.
"""

from __future__ import annotations

import copy
import inspect
import operator
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .._generators import generator_states, restore_generators
from .aliasing import IN_PLACE_OPERATORS
from .leaves import calls_more_than_forward, is_leaf, unfused_class

_AUTOCAST_DEVICES = ("cpu", "cuda")


class UntraceableError(Exception):
    """A block has no faithful graph; the message says why."""


def trace(block: nn.Module, leaves: Set[nn.Module]) -> tuple[fx.Graph, Set[nn.Module]]:
    """The graph of the block's forward, arguments with defaults fixed at these, and all modules that it has as leaves.

    Args:
        block: traced in the state that it is in.
        leaves: modules to show as one call, beside those of `is_leaf`.

    Raises:
        UntraceableError: there is no graph that computes what the block does.
    """
    while True:
        graph, error, readers = _trace_once(block, leaves, training=True)
        nested = {module for module in readers - leaves - {block} if not is_leaf(module)}
        if not nested:
            break
        leaves = leaves | nested
    if graph is None:
        raise UntraceableError(error)
    if readers:
        _require_same(graph, _trace_once(block, leaves, training=False), "between training and evaluation")
    with _other_modes():
        _require_same(graph, _trace_once(block, leaves, training=True), "with gradients or autocast on and off")
    return graph, leaves


def _require_same(graph: fx.Graph, other: tuple[fx.Graph | None, str, set[nn.Module]], between: str) -> None:
    if other[0] is None:
        raise UntraceableError(other[1])
    if _signature(graph) != _signature(other[0]):
        raise UntraceableError(f"its forward differs {between}")


@contextmanager
def _other_modes() -> Iterator[None]:
    """Gradients on where they were off and off where they were on; autocast likewise."""
    former = {device: torch.is_autocast_enabled(device) for device in _AUTOCAST_DEVICES}
    try:
        for device, enabled in former.items():
            torch.set_autocast_enabled(device, not enabled)
        with torch.set_grad_enabled(not torch.is_grad_enabled()):
            yield
    finally:
        for device, enabled in former.items():
            torch.set_autocast_enabled(device, enabled)


def _modes() -> tuple[Any, ...]:
    """What a ``with`` block around operations may have changed, which a graph does not show."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _AUTOCAST_DEVICES),
    )


def _trace_once(
    block: nn.Module, leaves: Set[nn.Module], training: bool
) -> tuple[fx.Graph | None, str, set[nn.Module]]:
    """The graph, or None and why not; and modules to show as leaves: they read their mode or cannot be traced."""
    with _lock, _untouched(block, training) as watch:
        tracer = _Tracer(leaves)
        try:
            graph = tracer.trace(block, concrete_args=_defaults(unfused_class(block).forward))
        except Exception as error:  # forward may raise anything when handed proxies
            known = isinstance(error, UntraceableError)
            reason = str(error) if known else f"its forward cannot be traced: {_first_line(error)}"
            return None, reason, watch.readers if tracer.failed is None else watch.readers | {tracer.failed}
    if watch.marks:
        return None, watch.marks[0], watch.readers
    _drop_fixed_arguments(graph)
    return graph, "", watch.readers


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _InPlaceProxy(fx.Proxy):
    """fx records ``a += b`` as ``a = a + b``; here it stays in place, so that aliases see what they saw before."""


def _in_place(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    function = getattr(operator, name)

    def record(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _name in IN_PLACE_OPERATORS:
    setattr(_InPlaceProxy, f"__{_name}__", _in_place(_name))


class _Tracer(fx.Tracer):
    # Buffers as proxies: an update of one is recorded instead of carried out.
    proxy_buffer_attributes = True

    def __init__(self, leaves: Set[nn.Module]) -> None:
        super().__init__()
        self._leaves = leaves
        self._depth = 0
        self._modes = _modes()
        self.failed: nn.Module | None = None  # the innermost module that could not be traced

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._leaves or is_leaf(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _InPlaceProxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self._modes:
            raise UntraceableError("its forward switches gradients or autocast for a part")
        node = super().create_node(*args, **kwargs)
        node.meta["nested"] = self._depth > 0
        return node

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        inside = 0 if self.is_leaf_module(m, "") else 1
        if not inside and calls_more_than_forward(m):
            raise UntraceableError(f"{type(m).__name__} has a __call__ of its own")
        self._depth += inside
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or (m if inside else None)
            raise
        finally:
            self._depth -= inside


def _defaults(forward: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(forward).parameters.values()
    simple = (bool, int, float, str, type(None))
    return {p.name: p.default for p in parameters if p.default is not p.empty and isinstance(p.default, simple)}


def _drop_fixed_arguments(graph: fx.Graph) -> None:
    """Drops fx's assertions on arguments fixed at their defaults: a fused block's graph runs with no others."""
    checks = {"_assert_is_none", "_assert", "eq"}
    for argument in [node for node in graph.nodes if node.op == "placeholder" and node.args]:
        readers = [argument]
        for node in readers:
            readers += node.users
        if all(getattr(node.target, "__name__", "") in checks for node in readers[1:]):
            for node in reversed(readers):
                graph.erase_node(node)


def _signature(graph: fx.Graph) -> list[tuple[str, Any, str, str]]:
    return [(node.op, node.target, str(node.args), str(node.kwargs)) for node in graph.nodes]


class _Watch:
    """What was seen while tracing."""

    def __init__(self) -> None:
        self.readers: set[nn.Module] = set()
        self.marks: list[str] = []


class _TrainingFlag:
    """Stands in for ``training`` while the modules of a block have none of their own, and notes who reads it."""

    def __init__(self, training: bool, readers: set[nn.Module]) -> None:
        self._training, self._readers = training, readers

    def __get__(self, module: nn.Module | None, owner: type[nn.Module]) -> bool:
        if module is not None:
            self._readers.add(module)
        return self._training


# Tracing exchanges attributes of classes that all threads share.
_lock = threading.RLock()


@contextmanager
def _untouched(block: nn.Module, training: bool) -> Iterator[_Watch]:
    """Puts everything back that tracing the block changes, and notes what that was."""
    watch = _Watch()
    modules = list(block.modules())
    before = [_contents(module) for module in modules]
    before_drawing = generator_states()
    for module in modules:
        vars(module).pop("training", None)
    nn.Module.training = _TrainingFlag(training, watch.readers)  # type: ignore[assignment]
    draws = _Draws()  # type: ignore[no-untyped-call]
    hooks = torch.autograd.graph.saved_tensors_hooks
    enter = hooks.__enter__

    def enter_and_note(self: Any) -> None:  # activation checkpointing, offloading
        watch.marks.append("its forward changes how tensors are saved")
        enter(self)

    hooks.__enter__ = enter_and_note  # type: ignore[method-assign]
    try:
        with draws:
            yield watch
    finally:
        hooks.__enter__ = enter  # type: ignore[method-assign]
        del nn.Module.training
        for module, contents in zip(modules, before, strict=True):
            changed = [name for name in _changes(module, contents) if name != "training"]
            if changed or "training" in vars(module):
                watch.marks.append(f"its forward writes to {type(module).__name__}.{[*changed, 'training'][0]}")
            _restore(module, contents)
        if draws.seen or generator_states()[1:] != before_drawing[1:]:
            watch.marks.append("its forward draws random numbers")
            restore_generators(before_drawing)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether PyTorch draws random numbers, and keeps it from writing to tensors."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            raise UntraceableError("its forward writes to a tensor that is not part of its graph")
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _contents(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The attributes of a module: each value, and a copy of it where it can be changed in place."""
    return {n: (v, copy.copy(v) if isinstance(v, (dict, list, set)) else v) for n, v in vars(module).items()}


def _changes(module: nn.Module, before: dict[str, tuple[Any, Any]]) -> list[str]:
    def same(name: str) -> bool:
        value, content = before[name]
        now = vars(module).get(name)
        if now is not value:
            return False
        if isinstance(content, dict):
            return now.keys() == content.keys() and all(now[key] is content[key] for key in now)
        if isinstance(content, list):
            return len(now) == len(content) and all(a is b for a, b in zip(now, content, strict=True))
        return not isinstance(content, set) or bool(now == content)

    names = before.keys() | vars(module).keys()
    return sorted(name for name in names if name not in before or not same(name))


def _restore(module: nn.Module, before: dict[str, tuple[Any, Any]]) -> None:
    vars(module).clear()
    for name, (value, content) in before.items():
        if isinstance(value, list):
            value[:] = content
        elif isinstance(value, (dict, set)):
            value.clear()
            value.update(content)
        vars(module)[name] = value
