"""Strategies that are never drawn from: whatever is done to one gives one."""

from __future__ import annotations

from typing import Any


class Anything:
    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> Anything:
        return self

    def __or__(self, _: object) -> Anything:
        return self

    __ror__ = __or__


ANYTHING = Anything()


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return ANYTHING
