"""A block's forward as a ``torch.fx`` graph, traced without leaving a mark on the block.

What a graph cannot show is refused here: control flow on values, other behaviour in training than in evaluation,
attributes written, random numbers drawn and tensors made while tracing. Modules that do such things inside a block
become leaves of its graph, which are called as they are.
"""

from __future__ import annotations

import copy
import inspect
import operator
import random
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode

from ..modules import has_hooks
from ..nn import ResidualBlock
from .aliasing import IN_PLACE_OPERATORS


class UntraceableError(Exception):
    """A block has no faithful graph; the message says why."""


def is_leaf(module: nn.Module) -> bool:
    """Whether a block's graph shows the module as one call."""
    return not is_block(module) or isinstance(module, FusedForward) or opacity(module) is not None


def opacity(module: nn.Module) -> str | None:
    """Why calling the module does more than its class's forward, None where it does not."""
    if has_hooks(module):
        return f"{type(module).__name__} has hooks"
    return "its forward is replaced on the instance" if "forward" in vars(module) else None


def is_block(module: nn.Module) -> bool:
    """Whether a module's forward may put others together: not PyTorch's own, no convolution or norm of any class."""
    if isinstance(module, (_ConvNd, _NormBase, torch.jit.ScriptModule, ResidualBlock)):
        return False
    return isinstance(module, nn.Sequential) or not type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))


class FusedForward:
    """Base of the classes that `fused_resnet.fuse` gives to blocks; each knows the class that it stands for."""

    _unfused_class: type[nn.Module]


def unfused_class(module: nn.Module) -> type[nn.Module]:
    """The module's class, or, of a fused block, the class that it had before."""
    return module._unfused_class if isinstance(module, FusedForward) else type(module)


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
        nested = readers - leaves - {block}
        if nested:
            leaves = leaves | nested
            continue
        if graph is None:
            raise UntraceableError(error)
        if block in readers:
            evaluation, error, _ = _trace_once(block, leaves, training=False)
            if evaluation is None:
                raise UntraceableError(error)
            if _signature(graph) != _signature(evaluation):
                raise UntraceableError("its forward differs between training and evaluation")
        return graph, leaves


def containers(block: nn.Module, leaves: Set[nn.Module], path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The block and the modules in it that its graph looks through, each with its path."""
    yield path, block
    for name, child in block.named_children():
        if child not in leaves and not is_leaf(child):
            yield from containers(child, leaves, f"{path}.{name}" if path else name)


def _trace_once(
    block: nn.Module, leaves: Set[nn.Module], training: bool
) -> tuple[fx.Graph | None, str, set[nn.Module]]:
    """The graph, or None and why not; and the modules that looked whether they are training."""
    with _untouched(block, training) as watch:
        try:
            graph = _Tracer(leaves).trace(block, concrete_args=_defaults(unfused_class(block).forward))
        except Exception as error:  # forward may raise anything when handed proxies
            return None, f"its forward cannot be traced: {_first_line(error)}", watch.readers
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

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._leaves or is_leaf(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _InPlaceProxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["nested"] = self._depth > 0
        return node

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        inside = 0 if self.is_leaf_module(m, "") else 1
        self._depth += inside
        try:
            return super().call_module(m, forward, args, kwargs)
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


@contextmanager
def _untouched(block: nn.Module, training: bool) -> Iterator[_Watch]:
    """Puts everything back that tracing the block changes, and notes what that was."""
    watch = _Watch()
    modules = list(block.modules())
    before = [_contents(module) for module in modules]
    generators = torch.get_rng_state(), random.getstate()
    for module in modules:
        vars(module).pop("training", None)
    nn.Module.training = _TrainingFlag(training, watch.readers)  # type: ignore[assignment]
    draws = _Draws()  # type: ignore[no-untyped-call]
    try:
        with draws:
            yield watch
    finally:
        del nn.Module.training
        for module, contents in zip(modules, before, strict=True):
            changed = [name for name in _changes(module, contents) if name != "training"]
            if changed or "training" in vars(module):
                watch.marks.append(f"its forward writes to {type(module).__name__}.{[*changed, 'training'][0]}")
            _restore(module, contents)
        if draws.seen or random.getstate() != generators[1]:
            watch.marks.append("its forward draws random numbers")
            torch.set_rng_state(generators[0])
            random.setstate(generators[1])


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether PyTorch draws random numbers."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
