"""How many compilers run side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

GIB = 2**30
MEMORY_OF_A_JOB = 2 * GIB


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0))


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes within the limits of the machine and of the control group; None: not known."""
    limits = []
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    group = root / "sys/fs/cgroup"
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        limits.append(int(limit) - int((group / "memory.current").read_text()))
    return min(limits, default=None)


def jobs(environ: Mapping[str, str], cpus: int, memory: int | None) -> tuple[int, str | None]:
    """The number, and a warning if it was asked for and is too many."""
    fitting = cpus if memory is None else max(1, memory // MEMORY_OF_A_JOB)
    wanted = environ.get("MAX_JOBS", "").strip()
    if not wanted:
        return max(1, min(cpus, fitting)), None
    if not wanted.isdecimal() or int(wanted) < 1:
        raise SystemExit(f"fused_resnet: MAX_JOBS is {wanted!r}, expected a positive number")
    if memory is None or int(wanted) <= fitting:
        return int(wanted), None
    return int(wanted), (
        f"MAX_JOBS={wanted}, but {memory / GIB:.1f} GiB of memory are enough for {fitting} (2 GiB each): "
        "compilers may be killed"
    )
