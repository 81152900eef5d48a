"""Whether modules are as they were when they were last examined, told in a few microseconds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from operator import is_
from typing import Any

from torch import nn

# What may change what the call of a module does, apart from its attributes.
METHODS = ("forward", "__call__", "_conv_forward")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Examined:
    """Remembers of a block that nothing was found against it, for as long as nothing changes.

    What is compared is the identity of attributes, children, parameters, buffers and methods. Whatever differs is only
    a reason to examine once more: an attribute may have been given an equal value, a child another of its kind.
    Copies and pickles remember nothing.
    """

    def __init__(self) -> None:
        self._snapshot: _Snapshot | None = None

    def holds_for(self, block: nn.Module) -> bool:
        """Whether `note` was called with this block, and nothing has changed since."""
        return self._snapshot is not None and self._snapshot.holds_for(block)

    def note(
        self,
        block: nn.Module,
        containers: Sequence[nn.Module],
        others: Iterable[nn.Module],
        views: Iterable[Collection[Any]] = (),
        reads: Iterable[Callable[[], Any]] = (),
    ) -> None:
        """Remembers a block as it is.

        Args:
            block: the module that is called. Its own hooks have been called already, those of the others must be empty.
            containers: modules, the block among them, whose children are looked at as well.
            others: further modules, no containers.
            views: collections whose elements are looked at as well.
            reads: functions whose results are looked at as well.
        """
        self._snapshot = _Snapshot(block, containers, others, views, reads)

    def __reduce__(self) -> tuple[type[Examined], tuple[()]]:
        return Examined, ()


class _Snapshot:
    def __init__(
        self,
        block: nn.Module,
        containers: Sequence[nn.Module],
        others: Iterable[nn.Module],
        views: Iterable[Collection[Any]],
        reads: Iterable[Callable[[], Any]],
    ) -> None:
        others = list(others)
        children = [child for module in containers for child in module._modules.values() if child is not None]
        # A child of PyTorch's own has no other attributes that a graph depends on.
        depended_on = [child for child in children if "inplace" in vars(child) or not _is_of_torch(type(child))]
        examined = list(dict.fromkeys([*containers, *others, *depended_on]))
        inside = [own for module in containers for own in (module._modules, module._parameters, module._buffers)]
        self._attributes = vars(block)
        self._named = [*map(vars, containers)]
        self._names = [*map(list, self._named)]
        self._views = [*(own.values() for own in [*map(vars, examined), *inside]), *views]
        self._sizes = [*map(len, self._views)]
        self._values = list(chain.from_iterable(self._views))
        self._reads = list(reads)
        self._results = [read() for read in self._reads]
        self._modules = list(dict.fromkeys([*examined, *children]))
        self._types = [*map(type, self._modules)]
        hooked = [module for module in [*containers, *others] if module is not block]
        self._hooks = [vars(module)[hooks] for module in hooked for hooks in HOOKS]
        self._methods = list(dict.fromkeys([*_methods(self._types), *_inherited_forwards(containers)]))
        self._functions = [getattr(*method, None) for method in self._methods]

    def holds_for(self, block: nn.Module) -> bool:
        return (
            vars(block) is self._attributes
            and [*map(len, self._views)] == self._sizes
            and all(map(is_, chain.from_iterable(self._views), self._values))
            and all(map(is_, [read() for read in self._reads], self._results))
            and [*map(list, self._named)] == self._names
            and [*map(type, self._modules)] == self._types
            and not any(self._hooks)
            and [getattr(*method, None) for method in self._methods] == self._functions
        )


def _methods(classes: Iterable[type]) -> Iterator[tuple[type, str]]:
    """``__call__`` of PyTorch's own classes is exchanged by whatever traces a module."""
    return ((cls, name) for cls in classes for name in METHODS if name != "__call__" or not _is_of_torch(cls))


def _inherited_forwards(containers: Iterable[nn.Module]) -> Iterator[tuple[type, str]]:
    """A fused block's class has a forward of its own, and another behind it."""
    classes = (cls for module in containers for cls in type(module).__mro__ if cls is not nn.Module)
    return ((cls, "forward") for cls in classes if "forward" in vars(cls))


def _is_of_torch(cls: type) -> bool:
    return cls.__module__.startswith("torch.nn.modules")
