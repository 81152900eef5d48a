"""Whether what a traced forward may have read is as it was then."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from torch import nn

from .holders import Absent, Holder
from .settings import Setting, Settings

_SIMPLE = (bool, int, float, complex, str, bytes)


class Watched:
    """The settings of a block's forward; copies of the block have their own, but for what they share."""

    def __init__(self, settings: Settings) -> None:
        places = (s for s in settings.found if s.contents or s.holder.may_grow(s.value))
        self._places = [_Place(setting) for setting in places]

    def change(self, block: nn.Module) -> str | None:
        """What has changed, None where nothing has."""
        for place in self._places:
            reason = place.change(block)
            if reason is not None:
                return reason
        return None

    def views(self, block: nn.Module) -> list[Collection[Any]]:
        """Collections that show most of the values, those of the moment whenever they are gone through."""
        return [view for place in self._places for view in place.holder.views(place.holder.find(block))]

    def reads(self, block: nn.Module) -> list[Callable[[], Any]]:
        """Functions that read the others."""
        return [read for place in self._places for read in place.holder.reads(place.holder.find(block))]


class _OfType(NamedTuple):
    """Stands for any object of a type, whose contents are watched by themselves."""

    type: type


class _Place:
    def __init__(self, setting: Setting) -> None:
        self.holder: Holder = setting.holder
        self._expected = {
            key: _OfType(type(value)) if key in setting.looked_into else value
            for key, value in setting.contents.items()
        }

    def change(self, block: nn.Module) -> str | None:
        try:
            now = self.holder.contents(self.holder.find(block))
        except KeyError:  # a module within a module that the graph shows as one call
            return f"{self.holder.owner} has changed: it is not there"
        for key, expected in self._expected.items():
            if not _is(now.get(key, Absent), expected):
                return f"{self.holder.owner} has changed: {self.holder.name_of(key)}"
        for key in now:
            if key not in self._expected and self.holder.matters(key):
                return f"{self.holder.owner} has changed: {self.holder.name_of(key)}"
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Place:
        if self.holder.shared:
            return self
        twin = copy.copy(self)
        twin._expected = copy.deepcopy(self._expected, memo)
        return twin


def _is(now: Any, expected: Any) -> bool:
    if isinstance(expected, _OfType):
        return type(now) is expected.type
    return now is expected or (type(now) is type(expected) and isinstance(now, _SIMPLE) and bool(now == expected))
