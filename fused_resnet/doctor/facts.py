"""What is installed on what: versions, GPUs, extension modules."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from typing import Any, get_args

import torch

from .. import __version__
from ..backends.kernels import availability, loading


@dataclass(frozen=True)
class Versions:
    """`cuda` is what torch was built for, None without; `driver` is None without a GPU, or where nothing tells it."""

    fused_resnet: str
    python: str
    torch: str
    cuda: str | None
    driver: str | None
    system: str


@dataclass(frozen=True)
class Gpu:
    """`architecture` is such as "9.0"; `problem` says why the kernels cannot run there, None where they can."""

    device: str
    name: str
    architecture: str
    problem: str | None


@dataclass(frozen=True)
class Module:
    """An extension module: where it lies, what was recorded of its build, why it does not load, None where it does."""

    name: str
    built: bool
    folder: str
    record: dict[str, Any]
    problem: str | None


def versions() -> Versions:
    """The versions of everything that takes part here."""
    return Versions(
        __version__,
        platform.python_version(),
        torch.__version__,
        torch.version.cuda,
        _driver() if torch.cuda.is_available() else None,
        f"{platform.system()} {platform.machine()}",
    )


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] if told else None


def gpus() -> list[Gpu]:
    """The GPUs that torch finds."""
    return [
        Gpu(
            f"cuda:{index}",
            torch.cuda.get_device_name(index),
            "{}.{}".format(*torch.cuda.get_device_capability(index)),
            availability.missing_on(index),
        )
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]


def modules() -> list[Module]:
    """The CUDA kernels and the emulator."""
    names = get_args(loading.Name)
    return [
        Module(n, loading.was_built(n), str(loading.folder_of(n)), loading.built_with(n), loading.load(n)[1])
        for n in names
    ]
