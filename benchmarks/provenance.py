"""Where a result comes from: enough to judge and repeat it, nothing that tells on the machine's owner."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

import fused_resnet

_REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Provenance:
    """Machine, versions, source and arguments of a run.

    Attributes:
        date: UTC, ISO 8601.
        device: model name of the CPU or the GPU that computed.
        cores, threads: CPU cores that the process may use, threads that PyTorch uses, None where nobody noted them.
        load_average: processes that wanted a core in the minute before, None where the system does not count them.
        cuda: version that PyTorch was built for, None where it was built for none.
        tf32: whether float32 convolutions may round their operands to tf32.
        commit, dirty: of the git checkout and whether tracked or new files differ from it; None outside one.
        backend: what computed the tails.
        arguments: of the command line; of a path, its last part.
    """

    date: str
    device: str
    cpu: str
    cores: int
    threads: int | None
    load_average: float | None
    system: str
    python: str
    torch: str
    cuda: str | None
    tf32: bool
    fused_resnet: str
    commit: str | None
    dirty: bool | None
    backend: str
    arguments: dict[str, object]


def provenance(device: torch.device, arguments: argparse.Namespace, backend: str | None = None) -> Provenance:
    """Of a run on a device ("cpu" or "cuda"); without a backend, that which `fused_resnet` takes by default."""
    on_gpu, cpu = device.type == "cuda", _cpu_model()
    # Results of an earlier run are not part of what is measured.
    changes = _git("status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    kernels = on_gpu and fused_resnet.available_backends()["cuda"] is None
    return Provenance(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=torch.cuda.get_device_name(device) if on_gpu else cpu,
        cpu=cpu,
        cores=available_cores(),
        threads=torch.get_num_threads(),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        system=_system(),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        tf32=on_gpu and torch.backends.cudnn.allow_tf32,
        fused_resnet=fused_resnet.__version__,
        commit=_git("rev-parse", "HEAD"),
        dirty=None if changes is None else bool(changes),
        backend=backend or ("cuda" if kernels else "reference"),
        arguments={name: value.name if isinstance(value, Path) else value for name, value in vars(arguments).items()},
    )


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _system() -> str:
    """The distribution's name: a kernel's release can carry whatever its builder put there."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.machine()}"


def _git(*arguments: str) -> str | None:
    """What git prints, None where there is no git or no checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=_REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
