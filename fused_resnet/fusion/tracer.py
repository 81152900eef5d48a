"""Records what a block's forward does, by means of the block's own modules alone.

PyTorch's tracer exchanges methods of ``nn.Module`` for the whole process while it works, and other threads that run
modules meanwhile fail. Here each module of the block is given attributes of its own for the time of the trace: how it
is called (what ``nn.Module.compile`` sets, too), and its parameters and buffers, which are read as values of the graph.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import weakref
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from .aliasing import IN_PLACE_OPERATORS
from .leaves import calls_more_than_forward, is_leaf, unfused_class

_AUTOCAST_DEVICES = ("cpu", "cuda")
_CALL = nn.Module._call_impl.__code__


class UntraceableError(Exception):
    """A block has no faithful graph; the message says why."""


class BlockTracer(fx.Tracer):
    """Traces one block once.

    Attributes:
        readers: the modules that read their mode.
        failed: the innermost module that could not be traced.
        wrote_mode: whether the forward has set a module's mode.
    """

    def __init__(self, block: nn.Module, leaves: Set[nn.Module], training: bool) -> None:
        """
        Args:
            block: what to trace.
            leaves: modules to show as one call, beside those of `is_leaf`.
            training: the mode that all modules of the block seem to have.
        """
        super().__init__()
        self.readers: set[nn.Module] = set()
        self.failed: nn.Module | None = None
        self.wrote_mode = False
        self.root = block
        self.graph = fx.Graph(tracer_cls=type(self))
        self.tensor_attrs = _plain_tensors(block)
        self._training = training
        self._leaves = leaves
        self._paths = {module: path for path, module in block.named_modules()}
        self._depth = 0
        self._modes = _modes()
        self._proxies: list[weakref.ref[fx.Proxy]] = []

    def run(self) -> None:
        """Calls the block's forward; `graph` shows what it does. Arguments that have defaults are these.

        Raises:
            UntraceableError: a graph cannot show what it does.
            Exception: whatever the forward raises when it is handed proxies.
        """
        forward = unfused_class(self.root).forward
        with self._intercepting():
            inputs = [self.create_proxy("placeholder", name, (), {}) for name in _required_arguments(forward)]
            self.create_node("output", "output", (self.create_arg(forward(self.root, *inputs)),), {})

    def kept_proxies(self) -> list[fx.Proxy]:
        """The values of the graph that somebody holds on to. What ran the forward must have let go of them."""
        return [proxy for proxy in (reference() for reference in self._proxies) if proxy is not None]

    @contextmanager
    def _intercepting(self) -> Iterator[None]:
        """Calls, parameters, buffers and modes of the block's modules come here."""
        read: dict[str, fx.Proxy] = {}
        former = []
        try:
            for module, path in self._paths.items():
                own = vars(module)
                former.append((own, dict(own)))
                own.pop("training", None)
                own["_compiled_call_impl"] = functools.partial(self._call, module)
                if not isinstance(module, torch.jit.ScriptModule):  # which has its tensors in C++
                    for name in ("_parameters", "_buffers"):
                        own[name] = _Tensors(own[name], self, module, path, read)
            yield
        finally:
            for own, before in former:
                if "training" in own:
                    self.wrote_mode = True
                _put_back(own, before)

    def read_mode(self, module: nn.Module) -> bool:
        """What ``module.training`` is."""
        self.readers.add(module)
        return self._training

    def _call(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if module in self._leaves or is_leaf(module):
            if calls_more_than_forward(module):
                raise UntraceableError(f"{type(module).__name__} has a __call__ of its own")
            return self.create_proxy("call_module", self._paths[module], args, kwargs)
        self._depth += 1
        try:
            return module._call_impl(*args, **kwargs)
        except Exception:
            self.failed = self.failed or module
            raise
        finally:
            self._depth -= 1

    def proxy(self, node: fx.Node) -> fx.Proxy:
        proxy = _InPlaceProxy(node, self)
        self._proxies.append(weakref.ref(proxy))
        return proxy

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self._modes:
            raise UntraceableError("its forward switches gradients or autocast for a part")
        self._refuse_strangers(sys._getframe(1))
        node = super().create_node(*args, **kwargs)
        node.meta["nested"] = self._depth > 0
        return node

    def _refuse_strangers(self, frame: FrameType | None) -> None:
        """Raises where a module computes that is none of the block's: nobody would notice that it changes."""
        while frame is not None and frame.f_code is not BlockTracer.run.__code__:
            if frame.f_code is _CALL and frame.f_locals["self"] not in self._paths:
                kind = type(frame.f_locals["self"]).__name__
                raise UntraceableError(f"its forward calls a {kind} that is not part of it")
            frame = frame.f_back


class _Tensors(dict[str, Any]):
    """A module's parameters or buffers, each a value of the graph for who asks for it by name; and ``training``."""

    def __init__(
        self, own: dict[str, Any], tracer: BlockTracer, module: nn.Module, path: str, read: dict[str, fx.Proxy]
    ) -> None:
        super().__init__(own)
        self._tracer, self._module, self._prefix, self._read = tracer, module, f"{path}." if path else "", read

    def __contains__(self, name: object) -> bool:
        return name == "training" or super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        if name == "training":
            return self._tracer.read_mode(self._module)
        if not isinstance(super().__getitem__(name), torch.Tensor):
            return super().__getitem__(name)
        path = self._prefix + name
        if path not in self._read:
            self._read[path] = self._tracer.create_proxy("get_attr", path, (), {})
        return self._read[path]


def _put_back(own: dict[str, Any], before: dict[str, Any]) -> None:
    """Gives a module the attributes that it had, but for what its forward has written, in the order that they had."""
    written = dict(own)
    for name in ("_parameters", "_buffers"):
        if isinstance(written[name], _Tensors):
            _fill(before[name], dict(written[name].items()))
            written[name] = before[name]
    for name in ("training", "_compiled_call_impl"):
        written.pop(name, None)
        written.update({name: before[name]} if name in before else {})
    own.clear()
    own.update({name: written[name] for name in before if name in written})
    own.update(written)


def _fill(tensors: dict[str, Any], written: dict[str, Any]) -> None:
    if tensors.keys() != written.keys() or any(written[name] is not tensor for name, tensor in tensors.items()):
        tensors.clear()
        tensors.update(written)


class _InPlaceProxy(fx.Proxy):
    """fx records ``a += b`` as ``a = a + b``; here it stays in place, so that aliases see what they saw before."""


def _in_place(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    function = getattr(operator, name)

    def record(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _name in IN_PLACE_OPERATORS:
    setattr(_InPlaceProxy, f"__{_name}__", _in_place(_name))


def _modes() -> tuple[Any, ...]:
    """What a ``with`` block around operations may have changed, which a graph does not show."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _AUTOCAST_DEVICES),
    )


@contextmanager
def other_modes() -> Iterator[None]:
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


def _required_arguments(forward: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a call must give, the block itself aside."""
    _, *parameters = inspect.signature(forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


def _plain_tensors(block: nn.Module) -> dict[Any, str]:
    """Paths of the tensors that are attributes, neither parameters nor buffers."""
    return {
        value: f"{path}.{name}" if path else name
        for path, module in block.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    }
