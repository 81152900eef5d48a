"""What two results differ in besides their numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..result import Result, text

_MACHINE = ("device", "cpu", "cores", "threads", "system")
# Where a run wrote to makes no difference to what it found.
_LEFT_OUT = ("argument json", "argument plot")


def differences(a: Result, b: Result) -> dict[str, tuple[str, str]]:
    """Names of what is not the same in both, with the texts of A and B."""
    of_a, of_b = _described(a), _described(b)
    names = [name for name in {**of_a, **of_b} if name not in _LEFT_OUT and of_a.get(name) != of_b.get(name)]
    return {name: (_said(of_a.get(name)), _said(of_b.get(name))) for name in names}


def warnings(a: Result, b: Result) -> list[str]:
    """What forbids to take measured differences for those of a change."""
    found = []
    machine = [name for name in _MACHINE if name in differences(a, b)]
    if machine:
        found.append(
            f"The machines differ ({', '.join(machine)}): measured ratios compare them, too; counted numbers do not."
        )
    for name, result in (("A", a), ("B", b)):
        if result.provenance.arguments.get("quick"):
            found.append(f"{name} is a smoke run: its numbers say nothing of real sizes.")
        if result.provenance.dirty:
            found.append(f"{name} is of a checkout with changes: its commit does not say what was measured.")
    return found


def _described(result: Result) -> dict[str, Any]:
    provenance = asdict(result.provenance)
    arguments = provenance.pop("arguments")
    return {
        **provenance,
        **{f"argument {name}": value for name, value in arguments.items()},
        **{f"setting {name}": value for name, value in result.settings.items()},
    }


def _said(value: Any) -> str:
    return text(value) if isinstance(value, bool) else "" if value is None else str(value)
