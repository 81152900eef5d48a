"""What tracing a block may change by running its forward, put back as it was."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from functools import partial
from operator import is_, is_not
from types import CellType
from typing import Any

from torch import fx, nn

from .holders import Absent, AllAttributes, Attributes, Holder, Items
from .leaves import unfused_class
from .settings import Setting, Settings


class Surroundings:
    """The attributes of all modules of a block, and whatever else its forward may write to, as they are now."""

    def __init__(self, block: nn.Module, settings: Settings) -> None:
        self._before = [*_state_of_modules(block), *settings.found]

    def put_back(self) -> list[str]:
        """Puts back what has changed, each place whatever happens at another; the names of what that was."""
        changed = []
        errors = []
        for holder, value, contents, _ in self._before:
            try:
                name = _changed(holder, holder.contents(value), contents)
                if name is not None:
                    changed.append(name)
                    holder.put_back(value, contents)
            except Exception as error:  # an object may refuse anything
                errors.append(error)
        if errors:
            raise errors[0]
        return changed


def _state_of_modules(block: nn.Module) -> Iterator[Setting]:
    for module in block.modules():
        owner = unfused_class(module).__name__
        attributes = AllAttributes(owner, "", lambda block: None, frozenset(), frozenset())
        yield Setting(attributes, module, attributes.contents(module), set())
        for name, value in vars(module).items():
            if isinstance(value, dict):
                items = Items(owner, name, lambda block: None, False)
                yield Setting(items, value, items.contents(value), set())


def _changed(holder: Holder, now: dict[Any, Any], before: dict[Any, Any]) -> str | None:
    """The name of what has other contents now."""
    keys = [key for key in {**before, **now} if now.get(key, Absent) is not before.get(key, Absent)]
    if not keys and list(now) == list(before):
        return None
    name = holder.name_of(keys[0]) if keys and isinstance(holder, Attributes) else holder.name
    return f"{holder.owner}.{name}"


def take_out(value: Any, ignored: list[list[Any]]) -> None:
    """Removes a value from the collections, attributes and variables that have it, some lists of ours aside."""
    holders = gc.get_referrers(value)
    ignored = [*ignored, holders]
    is_another = partial(is_not, value)  # no nested function, whose variable would be found as well
    for holder in holders:
        if any(map(partial(is_, holder), ignored)):
            continue
        if isinstance(holder, (fx.Proxy, tuple)):
            take_out(holder, ignored)
        elif isinstance(holder, list):
            holder[:] = filter(is_another, holder)
        elif isinstance(holder, deque):
            kept = list(filter(is_another, holder))
            deque.clear(holder)
            deque.extend(holder, kept)
        elif isinstance(holder, set):
            holder.difference_update([value])
        elif isinstance(holder, CellType):
            del holder.cell_contents
        elif isinstance(holder, dict) or hasattr(holder, "__dict__"):
            attributes = holder if isinstance(holder, dict) else vars(holder)
            for key, held in list(attributes.items()):
                if held is value:
                    dict.pop(attributes, key)
