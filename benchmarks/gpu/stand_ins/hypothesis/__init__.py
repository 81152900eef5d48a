"""Takes hypothesis' place where it is missing: tests that draw their cases are skipped, the others of a file run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from . import strategies as strategies

T = TypeVar("T")


def given(*_: object, **__: object) -> Callable[[T], T]:
    def skip(test: T) -> T:
        pytest.mark.skip(reason="hypothesis is not installed")(test)  # notes it on the function itself
        return test

    return skip


class settings:  # noqa: N801
    """A decorator that changes nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, test: T) -> T:
        return test

    @staticmethod
    def register_profile(*_: object, **__: object) -> None:
        pass

    @staticmethod
    def load_profile(*_: object) -> None:
        pass


def __getattr__(name: str) -> Any:
    """`example`, `assume`, `HealthCheck` and the like: none is used but by tests that are skipped."""
    if name.startswith("__"):
        raise AttributeError(name)
    return strategies.ANYTHING


def example(*_: object, **__: object) -> Callable[[T], T]:
    return lambda test: test
