"""Everything that a block's forward may read, or write to, besides its arguments, parameters and buffers.

Nothing runs to find it. The search starts from the attributes of the block's modules and from the code of their
forwards, and goes on to whatever that code has a name for: attributes of objects and of classes, items, globals,
closures, and the code of functions of the same packages. Names are those in the code, and strings that it may look up.
"""

from __future__ import annotations

import array
import dis
import random
import sys
from collections import deque
from collections.abc import Iterator, Set
from functools import cache, cached_property, lru_cache, partial, partialmethod
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from .holders import (
    IMPLICIT,
    AllAttributes,
    Attributes,
    Closure,
    Elements,
    Find,
    Globals,
    Holder,
    Items,
    Members,
    Parts,
    Slots,
)
from .leaves import PROGRAM, containers, finder, unfused_class

# ``compile()`` sets how a module is called, not what it computes; copies do not have it. A forward of an instance's own
# is looked for where a graph would pass it by.
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {PROGRAM, "_compiled_call_impl", "forward"}
# Where code names one of these, it may read attributes that it has no name for.
_DYNAMIC = frozenset({"getattr", "hasattr", "vars", "__dict__", "attrgetter", "eval", "exec"})
_WRAPPERS = (
    *(partial, partialmethod, staticmethod, classmethod, property, cached_property, MethodType),
    type(lru_cache(lambda: None)),
)
_UNWATCHABLE = (Iterator, bytearray, memoryview, array.array, random.Random)
_COLLECTIONS: list[tuple[Any, type[Holder]]] = [
    (dict, Items),
    ((list, tuple, deque), Elements),
    ((set, frozenset), Members),
]
_AT_MOST = 20_000


class Setting(NamedTuple):
    """A place, and what was there; keys of what was looked into, of which the contents are further places."""

    holder: Holder
    value: Any
    contents: dict[Any, Any]
    looked_into: set[Any]


class Settings:
    """What a block's forward may read, as it is now.

    Attributes:
        found: places, each behind the place that leads to it.
        names: names of all attributes that the forward may read.
        refusal: why changes of some of it could not be seen; None where all can.
        refused: the module whose forward that is.
    """

    def __init__(self, block: nn.Module, leaves: Set[nn.Module]) -> None:
        self._containers = list(containers(block, leaves))
        classes = [cls for _, module in self._containers for cls in unfused_class(module).__mro__]
        self._packages = {_package(cls.__module__) for cls in classes} - _FOREIGN
        self.names: set[str] = set(IMPLICIT)
        self._globals: dict[int, set[str]] = {}  # by the identity of a function's globals
        known = -1
        while known < self._known():
            known = self._known()
            self._go()
            if self.refusal is not None:
                break

    def _known(self) -> int:
        """How many names there are: as soon as a new one turns up, everything is gone through once more."""
        return len(self.names) + sum(map(len, self._globals.values()))

    def _go(self) -> None:
        """Goes through everything once, by the names that are known."""
        self.found: list[Setting] = []
        self.refusal: str | None = None
        self.refused: nn.Module | None = None
        self._seen: set[tuple[int, type[Holder], bool]] = set()
        self._size = 0
        for path, module in self._containers:
            if self.refusal is not None:
                break
            self.refused = module
            cls = unfused_class(module)
            owner = path or cls.__name__
            self._add(AllAttributes(owner, "", finder(path), self.names, _OF_EVERY_MODULE), module)
            self._visit_children(module, path)
            self._visit_class(cls, of_container=True)

    def _add(self, holder: Holder, value: Any) -> bool:
        """Notes a place, and goes on to what is there. Whether it is new."""
        key = (id(value), type(holder), holder.shared)
        if key in self._seen or self._size > _AT_MOST:
            return False
        self._seen.add(key)
        setting = Setting(holder, value, holder.contents(value), set())
        self.found.append(setting)
        self._size += len(setting.contents)
        if self._size > _AT_MOST:
            self.refusal = f"its forward may read more than {_AT_MOST:,} values"
        for key, inner in setting.contents.items():
            if holder.matters(key) or self.names & _DYNAMIC:
                at = (holder.owner, holder.name_of(key), holder.step(key))
                if self._visit(inner, at, holder.shared):
                    setting.looked_into.add(key)
        return True

    def _visit(self, value: Any, at: tuple[str, str, Find], shared: bool) -> bool:
        """Goes on to what is in a value; whether all that may change in it is now a place of its own."""
        if isinstance(value, str):
            if value.isidentifier() and self.names & _DYNAMIC:
                self.names.add(value)
        elif isinstance(value, FunctionType):
            self._visit_function(value, at, of_container=False)
        elif isinstance(value, _WRAPPERS):
            self._add(Parts(*at, shared), value)
        elif isinstance(value, type):
            self._visit_class(value, of_container=False)
        elif isinstance(value, ModuleType):
            if _package(value.__name__) not in sys.stdlib_module_names:
                self._add(Attributes(value.__name__, "", _always(value), True, self.names), value)
        elif isinstance(value, nn.Module):
            self._visit_module(value, at, shared)
        elif _is_unwatchable(value):
            self.refusal = f"its forward may read {at[0]}.{at[1]}, a {type(value).__name__}, which changes unseen"
        else:
            return self._visit_object(value, at, shared)
        return False

    def _visit_object(self, value: Any, at: tuple[str, str, Find], shared: bool) -> bool:
        new = False
        for kinds, holder in _COLLECTIONS:
            if isinstance(value, kinds):
                new = self._add(holder(*at, shared), value)
        cls = type(value)
        if _package(cls.__module__) in _OPAQUE:
            return new
        self._visit_class(cls, of_container=False)
        if hasattr(value, "__dict__"):
            return self._add(Attributes(*at, shared, self._names_of(value)), value)
        return self._add(Slots(*at, shared, self.names), value)

    def _names_of(self, value: Any) -> Set[str]:
        """Names of the attributes to look at: all of them, where access to them runs code that is not looked at."""
        cls = type(value)
        looked_up = any("__getattr__" in vars(c) or "__getitem__" in vars(c) for c in cls.__mro__)
        foreign = looked_up and _package(cls.__module__) not in self._packages
        return vars(value).keys() | self.names if foreign or self.names & _DYNAMIC else self.names

    def _visit_module(self, module: nn.Module, at: tuple[str, str, Find], shared: bool) -> None:
        """A module that the graph shows as one call, or that is no child of the block's at all."""
        names = vars(module).keys() | self.names if self.names & _DYNAMIC else self.names
        self._add(Attributes(*at, shared, names - _OF_EVERY_MODULE), module)
        self._visit_class(unfused_class(module), of_container=False)

    def _visit_children(self, module: nn.Module, path: str) -> None:
        """The children that the graph shows as one call, and theirs."""
        looked_through = {module for _, module in self._containers}
        for name, child in module.named_children():
            # Parametrizations come and go: what they compute are parameters.
            if child not in looked_through and name != "parametrizations":
                inner = f"{path}.{name}" if path else name
                self._visit_module(child, (inner, "", finder(inner)), False)
                self._visit_children(child, inner)

    def _visit_class(self, cls: type, of_container: bool) -> None:
        """What a class and those that it inherits from have under the names that are looked for."""
        for base in cls.__mro__:
            package = _package(base.__module__)
            inherited = of_container and base is not nn.Module and package != "builtins"
            if not inherited and (package in _OPAQUE or package in sys.stdlib_module_names):
                continue
            names = self.names - IMPLICIT | {"forward"} if package == "torch" else self.names
            holder = Attributes(base.__name__, "", _always(base), True, names)
            self._add(holder, base)
            if inherited:
                for name, function in holder.contents(base).items():
                    if isinstance(function, FunctionType):
                        self._visit_function(function, (base.__name__, name, holder.step(name)), of_container=True)

    def _visit_function(self, function: FunctionType, at: tuple[str, str, Find], of_container: bool) -> None:
        """The names in its code, its globals and its closure."""
        module = function.__globals__.get("__name__", "")
        if not of_container and _package(module) not in self._packages:
            return
        names, of_globals = _names_in(function.__code__)
        self.names |= names
        named = self._globals.setdefault(id(function.__globals__), set())
        named |= of_globals
        self._add(Globals(module, "", _always(function.__globals__), True, named), function.__globals__)
        self._add(Closure(*at, True), function)


@cache
def _names_in(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The attributes that code has names for, strings included that it may look up; and the globals."""
    opcodes = ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL")
    of_globals = {str(of.argval) for of in dis.get_instructions(code) if of.opname in opcodes}
    names = {*code.co_names} - (of_globals - _DYNAMIC)
    constants: list[Any] = [*code.co_consts]
    for constant in constants:
        if isinstance(constant, str) and constant.isidentifier():
            names.add(constant)
        elif isinstance(constant, (tuple, frozenset)):
            constants += constant
        elif isinstance(constant, CodeType):
            inner = _names_in(constant)
            names |= inner[0]
            of_globals |= inner[1]
    return frozenset(names), frozenset(of_globals)


def _is_unwatchable(value: Any) -> bool:
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or value is numpy.random.mtrand._rand:  # whose state is looked at
        return isinstance(value, _UNWATCHABLE)
    return isinstance(value, (*_UNWATCHABLE, numpy.ndarray, numpy.random.Generator, numpy.random.RandomState))


def _always(value: Any) -> Find:
    return lambda block: value


def _package(module: Any) -> str:
    """The top-level package of a module's name; classes written in C may have something else in the place of it."""
    return module.partition(".")[0] if isinstance(module, str) else "builtins"


_OPAQUE = frozenset({"torch", "builtins", _package(__name__)})
_FOREIGN = _OPAQUE | sys.stdlib_module_names - {"__main__"}
