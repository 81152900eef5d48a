"""Results as JSON files."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def write(results: Any, path: Path) -> None:
    """Writes a dataclass, lists of numbers on one line each."""
    text = json.dumps(asdict(results), indent=2)
    text = re.sub(r"\[[\s\d.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    path.write_text(text + "\n", encoding="utf-8")


def decoded(kind: type[T], found: Any) -> T:
    """The dataclass that `write` has written, from the parsed file.

    Its attributes are dataclasses, also generic ones, dictionaries with dataclasses as values, or what JSON has itself.

    Raises:
        TypeError, KeyError: it was not written from one like this.
    """
    value: T = _decoded(kind, found, {})
    return value


def _decoded(kind: Any, found: Any, variables: dict[Any, Any]) -> Any:
    kind = variables.get(kind, kind)
    of, arguments = get_origin(kind) or kind, get_args(kind)
    if of is dict:
        return {name: _decoded(arguments[1], value, variables) for name, value in found.items()}
    if not is_dataclass(of):
        return found
    own = dict(zip(getattr(of, "__parameters__", ()), arguments, strict=True))
    kinds = get_type_hints(of)
    return of(**{field.name: _decoded(kinds[field.name], found[field.name], own) for field in fields(of)})  # type: ignore[operator]
