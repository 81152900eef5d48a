"""A process-wide choice that can be set by a function call or for the length of a ``with`` block."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """One value, shared by all threads: backward runs in threads of its own and must see the same choice."""

    def __init__(self, value: T) -> None:
        self.value = value

    def set(self, value: T) -> RestoredOnExit[T]:
        """Sets the value at once; used as a context manager, the result puts the former one back."""
        former, self.value = self.value, value
        return RestoredOnExit(self, former)


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
        self._setting.value = self._former
