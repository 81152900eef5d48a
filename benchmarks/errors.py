"""Errors that the user can put right: shown as one line, without a traceback."""

from __future__ import annotations

from importlib.util import find_spec

EXTRA = ("matplotlib", "mlxtend", "numpy", "scipy", "tqdm")


class UserError(Exception):
    """Its message says what was found and what was expected, or what to do."""


def check_dependencies() -> None:
    """Refuses to start, rather than to fail minutes later, where a package of the ``benchmarks`` extra is missing."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed: pip install 'fused_resnet[benchmarks]'")
