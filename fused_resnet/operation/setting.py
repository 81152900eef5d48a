"""A process-wide choice that can be set by a function call or for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """One value, shared by all threads: backward runs in threads of its own and must see the same choice."""

    def __init__(self, value: T) -> None:
        self.value = value
        self.on_change: Callable[[], None] | None = None  # called after each change

    def set(self, value: T) -> RestoredOnExit[T]:
        """Sets the value at once; used as a context manager, the result puts the former one back."""
        former = self.value
        self.put(value)
        return RestoredOnExit(self, former)

    def put(self, value: T) -> None:
        """Sets the value for good."""
        self.value = value
        if self.on_change is not None:
            self.on_change()


class RestoredOnExit(Generic[T]):
    """Handed out by `Setting.set`; leaving a ``with`` block over it restores the former value."""

    def __init__(self, setting: Setting[T], former: T) -> None:
        self._setting = setting
        self._former = former

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._setting.put(self._former)
