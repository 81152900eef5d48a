"""Loads the extension modules and, where one is missing or does not load, says why.

Beside each module lies what was recorded of its build (``_C.json``): the versions that it was built with, or why it was
not built. A module that does not load could not tell. ``_C`` may lie in the package, from the installation, or in the
cache, from ``python -m fused_resnet build``.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias

import torch

from ...kernel_build.cache import Record, built_modules, cache_folder, file_name, python_version, sources_digest
from .compatibility import runs_on

Name: TypeAlias = Literal["_C", "_emulated"]

_PACKAGE = Path(__file__).parents[2]
# What mends a module that does not fit.
MENDING: dict[Name, str] = {
    "_C": "run `python -m fused_resnet build`",
    "_emulated": "run `FUSED_RESNET_EMULATOR=1 python setup.py build_ext --inplace` in the sources",
}


@functools.cache
def load(name: Name) -> tuple[ModuleType | None, str | None]:
    """The module and None, or None and the reason why it cannot be used."""
    folder, record = _chosen(name)
    reason = _mismatch(name, record)
    return (None, reason) if reason is not None else load_from(folder, name)


def load_from(folder: Path, name: Name) -> tuple[ModuleType | None, str | None]:
    """The same of the module in a folder, whatever was recorded of it."""
    full_name, path = f"{_PACKAGE.name}.{name}", folder / file_name(name)
    spec = importlib.util.spec_from_file_location(full_name, path)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a library's initialisation raises
        return None, f"it does not load with {_versions(_record(folder, name))}: {MENDING[name]} ({error})"
    sys.modules[full_name] = module
    return module, None


def built_with(name: Name) -> Record:
    """What was recorded of it: "torch", "python", "nvcc" and "architectures", or the "reason" why there is none."""
    return _chosen(name)[1]


def folder_of(name: Name) -> Path:
    """Where it lies, or would lie."""
    return _chosen(name)[0]


@functools.cache
def was_built(name: Name) -> bool:
    """Whether there is one: if it cannot be used nevertheless, something has changed since."""
    return "torch" in built_with(name)


@functools.cache
def _chosen(name: Name) -> tuple[Path, Record]:
    """Folder and record of the module to be used; where there is none, of what tells best why."""
    own = _PACKAGE, _record(_PACKAGE, name)
    cached = list(built_modules(cache_folder())) if name == "_C" else []
    if not cached:
        return own
    built = [*cached, own] if "torch" in own[1] else cached
    fitting = [one for one in built if _mismatch(name, one[1]) is None]
    # The first of equals: what was built last, and what was built on purpose ahead of what came with the package.
    return max(fitting, key=lambda one: _gpus_served(one[1])) if len(fitting) > 1 else [*fitting, *reversed(built)][0]


def _gpus_served(record: Record) -> int:
    """How many of the GPUs here there is code for."""
    if not torch.cuda.is_available():
        return 0
    capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    return sum(runs_on(record["architectures"], capability) for capability in capabilities)


def _record(folder: Path, name: Name) -> Record:
    try:
        recorded: Record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return recorded


def _mismatch(name: Name, record: Record) -> str | None:
    if "reason" in record:
        return f"not built ({record['reason']})"
    if not record and not (_PACKAGE / file_name(name)).exists():
        return "not built (fused_resnet is used from a folder that was never installed)"
    changed = _changed_since(record)
    if changed is not None:
        return f"{changed}: {MENDING[name]}"
    # A sanitizer that is not loaded first ends the process.
    if record.get("sanitized") and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        return "built with FUSED_RESNET_SANITIZE=1 and libasan is not in LD_PRELOAD: build it without"
    return None


def _changed_since(record: Record) -> str | None:
    """What is no longer as it was when this was built. Facts that were not recorded are taken to be the same."""
    if record.get("python", python_version()) != python_version():
        return f"built for Python {record['python']}, but this is Python {python_version()}"
    if _minor(record.get("torch", torch.__version__)) != _minor(torch.__version__):
        return f"built for torch {record['torch']}, but torch {torch.__version__} is imported"
    # Libraries of two major versions of CUDA do not belong in one process.
    cuda = torch.version.cuda
    if cuda is not None and record.get("nvcc", cuda).split(".")[0] != cuda.split(".")[0]:
        return f"built by nvcc {record['nvcc']}, but torch {torch.__version__} is for CUDA {cuda}"
    if "sources" in record and record["sources"] != sources_digest():
        return "built from other sources than these"
    return None


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _versions(record: Record) -> str:
    """Both of torch, where they differ."""
    built_for = record.get("torch", torch.__version__)
    return f"torch {torch.__version__}" + (f", built for {built_for}" if built_for != torch.__version__ else "")
