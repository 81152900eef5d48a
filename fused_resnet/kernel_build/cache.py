"""Where modules lie that were compiled after the installation, and for what each of them is.

Each is in a folder of its own, named by Python, torch, CUDA, sources and architectures, so that environments share what
fits all of them and nothing takes the place of what another one uses. Beside the module lies its record, written last:
a folder without one is not finished.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

# "torch", "python", "nvcc", "architectures", "sources", or the "reason" why there is no module.
Record: TypeAlias = dict[str, Any]

_PACKAGE = Path(__file__).resolve().parents[1]
_SOURCES = ".cpp", ".cu", ".cuh", ".h"
_RECIPES = Path(__file__).with_name("recipes.py")


def sources_root() -> Path:
    """The folder that `csrc` is in: an installed package has it inside, a checkout beside."""
    return _PACKAGE if (_PACKAGE / "csrc").is_dir() else _PACKAGE.parent


@functools.cache
def sources_digest() -> str:
    """Names the kernels' sources and how they are compiled: other ones give another digest."""
    digest = hashlib.sha256(_RECIPES.read_bytes())
    folder = sources_root() / "csrc"
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _SOURCES):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """FUSED_RESNET_CACHE; by default `fused_resnet` where the user's caches are."""
    caches = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(environ.get("FUSED_RESNET_CACHE") or f"{caches}/fused_resnet")).absolute()


def file_name(module: str) -> str:
    """The file name of a module for this Python."""
    return f"{module}{sysconfig.get_config_var('EXT_SUFFIX')}"


def python_version() -> str:
    """Such as "3.12"."""
    return "{}.{}".format(*sys.version_info)


def built_folder(cache: Path, torch: str, nvcc: str, architectures: Sequence[str]) -> Path:
    """The folder of the module for this Python, this minor torch, this major CUDA and these architectures."""
    release, cuda = ".".join(torch.split(".")[:2]), nvcc.split(".")[0]
    names = (sysconfig.get_config_var("SOABI"), f"torch{release}", f"cuda{cuda}", sources_digest(), *architectures)
    return cache / "-".join(names)


def built_modules(cache: Path) -> Iterator[tuple[Path, Record]]:
    """Folder and record of every module for this kind of Python, the newest first."""
    files = sorted(cache.glob("*/_C.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files:
        # Files of somebody else's are left alone.
        with contextlib.suppress(OSError, ValueError):
            if (file.parent / file_name("_C")).exists():
                yield file.parent, json.loads(file.read_text(encoding="utf-8"))


def store_module(module: Path, folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Puts a module and its record into a folder; what was there before stays whole until then."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / file_name(name), module.read_bytes(), module.stat().st_mode)
    store_record(folder, name, {"python": python_version(), **facts})


def store_record(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """What is known of a module in the folder, or why there is none."""
    _replace(folder / f"{name}.json", (json.dumps(facts, indent=2) + "\n").encode(), 0o644)


def log_file(module: str) -> Path:
    """What compilers say is written there: it outlives the folders in which pip builds."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        writable = os.access(cache_folder(), os.W_OK)
    except OSError:
        writable = False
    folder = cache_folder() if writable else Path(tempfile.gettempdir())
    return folder / f"{module}-{os.getpid()}.log"


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Never half a file, nor a new one in the memory of a process that has loaded the old one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(mode)
    temporary.replace(path)
