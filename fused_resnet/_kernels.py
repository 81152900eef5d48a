"""Loads the extension modules and, where one is missing or does not load, says why.

Beside each module lies what ``setup.py`` recorded of it (``_C.json``): the versions that it was built with, or why it
was not built. A module that does not load could not tell.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch

Name: TypeAlias = Literal["_C", "_emulated"]


@functools.cache
def load(name: Name) -> tuple[ModuleType | None, str | None]:
    """The module and None, or None and the reason why it cannot be used."""
    reason = _mismatch(name, built_with(name))
    if reason is not None:
        return None, reason
    try:
        return importlib.import_module(f"{__package__}.{name}"), None
    except Exception as error:  # whatever a library's initialisation raises
        return None, f"it does not load with {_versions(built_with(name))}: {reinstall()} ({error})"


def built_with(name: Name) -> dict[str, Any]:
    """What was recorded of it: "torch", "python", "nvcc" and "architectures", or the "reason" why there is none."""
    record = Path(__file__).with_name(f"{name}.json")
    try:
        recorded: dict[str, Any] = json.loads(record.read_text())
    except FileNotFoundError:
        return {}
    return recorded


def reinstall(setting: str = "") -> str:
    """What mends a module that does not fit, with a setting of an environment variable ahead."""
    return f"reinstall from the sources, {setting}pip install --no-build-isolation --no-deps --force-reinstall ."


@functools.cache
def was_built(name: Name) -> bool:
    """Whether it was built at installation: if it cannot be used nevertheless, something has changed since."""
    return "torch" in built_with(name)


def _mismatch(name: Name, record: dict[str, Any]) -> str | None:
    if "reason" in record:
        return f"not built ({record['reason']})"
    python = "{}.{}".format(*sys.version_info)
    if record.get("python", python) != python:
        return f"built for Python {record['python']}, but this is Python {python}: {reinstall()}"
    if _minor(record.get("torch", torch.__version__)) != _minor(torch.__version__):
        return f"built for torch {record['torch']}, but torch {torch.__version__} is imported: {reinstall()}"
    # A sanitizer that is not loaded first ends the process.
    if record.get("sanitized") and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        return "built with FUSED_RESNET_SANITIZE=1 and libasan is not in LD_PRELOAD: build it without"
    if not record and importlib.util.find_spec(f"{__package__}.{name}") is None:
        return "not built (fused_resnet is used from a folder that was never installed)"
    return None


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _versions(record: dict[str, Any]) -> str:
    """Both of torch, where they differ."""
    built_for = record.get("torch", torch.__version__)
    return f"torch {torch.__version__}" + (f", built for {built_for}" if built_for != torch.__version__ else "")
