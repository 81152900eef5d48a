"""Places that hold values which a forward may read: attributes, items, globals, closures.

A holder says how to come to such a place from a block, so that it finds the place of a copy of the block as well, and
what is in the place by key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Set
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

Find = Callable[[nn.Module], Any]
# Methods that are called without being named.
IMPLICIT = frozenset({"forward", "__call__", "__getattr__", "__getattribute__", "__getitem__", "__iter__", "__next__"})
IMPLICIT |= {"__len__", "__bool__", "__contains__"}


class Absent:
    """Stands for a value that is not there."""


class Holder(ABC):
    """One place.

    Attributes:
        owner: what it is part of, for people: a module of the block, a class, a file of Python.
        name: where in its owner, "" for the owner itself.
        find: from a block to the object that holds the values.
        shared: whether copies of the block share the place.
    """

    def __init__(self, owner: str, name: str, find: Find, shared: bool) -> None:
        self.owner, self.name, self.find, self.shared = owner, name, find, shared

    @abstractmethod
    def contents(self, value: Any) -> dict[Any, Any]:
        """What the object holds, by key."""

    def get(self, value: Any, key: Any) -> Any:
        """What it holds by one key."""
        return self.contents(value).get(key, Absent)

    def matters(self, key: Any) -> bool:
        """Whether a forward may read what is there by that key."""
        return True

    @abstractmethod
    def put_back(self, value: Any, contents: dict[Any, Any]) -> None:
        """Has it hold these values again."""

    def may_grow(self, value: Any) -> bool:
        """Whether a forward would see more in the object than there is now."""
        return True

    def name_of(self, key: Any) -> str:
        """The name of what is there by that key, within the owner."""
        return f"{self.name}[{key!r}]"

    def views(self, value: Any) -> Iterator[Collection[Any]]:
        """What shows the values, those of the moment, whenever it is gone through."""
        return iter(())

    def reads(self, value: Any) -> Iterator[Callable[[], Any]]:
        """Functions that read the values that no view shows."""
        return iter(())

    def step(self, key: Any) -> Find:
        """A function from a block to what is there by that key."""
        find, get = self.find, self.get
        return lambda block: get(find(block), key)

    def __deepcopy__(self, memo: dict[int, Any]) -> Holder:
        return self  # it knows of no block


class Attributes(Holder):
    """Attributes of an object, of a class or of a Python module: those that have certain names."""

    def __init__(self, owner: str, name: str, find: Find, shared: bool, names: Set[str]) -> None:
        super().__init__(owner, name, find, shared)
        self._names = names

    def contents(self, value: Any) -> dict[str, Any]:
        now = self._mapping(value)
        return {name: now[name] for name in sorted(self._names & now.keys())}

    def get(self, value: Any, key: str) -> Any:
        return self._mapping(value).get(key, Absent)

    def put_back(self, value: Any, contents: dict[str, Any]) -> None:
        for name in self.contents(value).keys() - contents.keys():
            self._delete(value, name)
        for name, former in contents.items():
            if self.get(value, name) is not former:
                self._set(value, name, former)

    def name_of(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def reads(self, value: Any) -> Iterator[Callable[[], Any]]:
        now = self._mapping(value)
        for name in sorted(self._names & now.keys()):
            yield partial(now.get, name, Absent)
        if self.may_grow(value):
            yield now.__len__

    def may_grow(self, value: Any) -> bool:
        """Whether a forward would see that the object gets another attribute of those names.

        It does where it asks, and where the attribute takes the place of one of a class's.
        """
        if isinstance(value, ModuleType):
            return False
        names = self._names - IMPLICIT
        of_classes = any(name in vars(cls) for cls in type(value).__mro__ for name in names)
        return isinstance(value, type) or of_classes or bool(names & {"getattr", "hasattr", "vars", "__dict__"})

    def _mapping(self, value: Any) -> Any:
        return vars(value)

    def _set(self, value: Any, name: str, former: Any) -> None:
        if isinstance(value, type):
            type.__setattr__(value, name, former)
        else:
            self._mapping(value)[name] = former

    def _delete(self, value: Any, name: str) -> None:
        if isinstance(value, type):
            type.__delattr__(value, name)
        else:
            del self._mapping(value)[name]


class AllAttributes(Attributes):
    """All attributes of an object but some. Of those that it is given later, those count that have certain names."""

    def __init__(self, owner: str, name: str, find: Find, names: Set[str], ignored: Set[str]) -> None:
        super().__init__(owner, name, find, False, names)
        self._ignored = ignored

    def contents(self, value: Any) -> dict[str, Any]:
        return {name: now for name, now in vars(value).items() if name not in self._ignored}

    def matters(self, key: str) -> bool:
        return key in self._names

    def reads(self, value: Any) -> Iterator[Callable[[], Any]]:
        return iter(())  # whoever calls the block looks at all attributes of such objects, its containers


class Globals(Attributes):
    """Globals of a function."""

    def may_grow(self, value: Any) -> bool:
        return False

    def _mapping(self, value: dict[str, Any]) -> dict[str, Any]:
        return value


class Slots(Attributes):
    """Attributes of an object that has no dictionary of them."""

    def contents(self, value: Any) -> dict[str, Any]:
        slots = [name for cls in type(value).__mro__ for name in _slots_of(cls) if name in self._names]
        return {name: getattr(value, name) for name in slots if hasattr(value, name)}

    def get(self, value: Any, key: str) -> Any:
        return getattr(value, key, Absent)

    def reads(self, value: Any) -> Iterator[Callable[[], Any]]:
        return (partial(getattr, value, name, Absent) for name in self.contents(value))

    def _set(self, value: Any, name: str, former: Any) -> None:
        object.__setattr__(value, name, former)

    def _delete(self, value: Any, name: str) -> None:
        object.__delattr__(value, name)


class Items(Holder):
    """Items of a dict."""

    def contents(self, value: dict[Any, Any]) -> dict[Any, Any]:
        return dict(dict.items(value))

    def get(self, value: dict[Any, Any], key: Any) -> Any:
        return dict.get(value, key, Absent)

    def put_back(self, value: dict[Any, Any], contents: dict[Any, Any]) -> None:
        # Not by methods of the value's own: these may refuse.
        dict.clear(value)
        dict.update(value, contents)

    def views(self, value: dict[Any, Any]) -> Iterator[Collection[Any]]:
        yield dict.keys(value)
        yield dict.values(value)


class Elements(Holder):
    """Elements of a list, a tuple or a deque."""

    def contents(self, value: Any) -> dict[int, Any]:
        return dict(enumerate(value))

    def get(self, value: Any, key: int) -> Any:
        return value[key] if key < len(value) else Absent

    def put_back(self, value: Any, contents: dict[int, Any]) -> None:
        kind: Any = deque if isinstance(value, deque) else list
        kind.clear(value)
        kind.extend(value, contents.values())

    def views(self, value: Any) -> Iterator[Collection[Any]]:
        yield value


class Members(Holder):
    """Members of a set."""

    def contents(self, value: Any) -> dict[Any, Any]:
        return dict.fromkeys(value, True)

    def put_back(self, value: set[Any], contents: dict[Any, Any]) -> None:
        set.clear(value)
        set.update(value, contents)

    def views(self, value: Any) -> Iterator[Collection[Any]]:
        yield value


class Closure(Holder):
    """Variables of the functions around a function, and the defaults of its arguments."""

    def contents(self, value: FunctionType) -> dict[str, Any]:
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        variables = {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
        defaults = {"its defaults": value.__defaults__, "its keyword defaults": value.__kwdefaults__}
        return {**variables, **{name: of_arguments for name, of_arguments in defaults.items() if of_arguments}}

    def put_back(self, value: FunctionType, contents: dict[str, Any]) -> None:
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if name in contents:
                cell.cell_contents = contents[name]

    def may_grow(self, value: FunctionType) -> bool:
        return False

    def name_of(self, key: str) -> str:
        return f"{self.name}: {key}"

    def reads(self, value: FunctionType) -> Iterator[Callable[[], Any]]:
        return (partial(getattr, cell, "cell_contents", Absent) for cell in value.__closure__ or ())


class Parts(Holder):
    """What a partial function, a bound method, a property and the like are made of, which stays the same."""

    NAMES = ("__func__", "__self__", "__wrapped__", "fget", "func", "args", "keywords")

    def contents(self, value: Any) -> dict[str, Any]:
        return {name: getattr(value, name) for name in self.NAMES if hasattr(value, name)}

    def put_back(self, value: Any, contents: dict[str, Any]) -> None:
        """Nothing: a forward cannot give such an object other parts."""

    def name_of(self, key: str) -> str:
        return self.name


def _slots_of(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents  # an empty one raises
    except ValueError:
        return False
    return True
