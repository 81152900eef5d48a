"""On what, and with what, the parts ran.

Found out in a process of its own, as that occupies the GPU and loads the kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from dataclasses import asdict
from typing import Any

import torch

import fused_resnet
from fused_resnet.kernel_build.cache import sources_digest
from fused_resnet.kernel_build.toolchain import CannotBuildError, find_nvcc

from ..process import run
from ..provenance import provenance
from .parts import PYTHON

UNKNOWN = "unknown"
_LIMIT_S = 60.0


def look_up() -> dict[str, Any]:
    """The facts, or what prevented their being found."""
    lines: list[str] = []
    ended = run([*PYTHON, "benchmarks.gpu.machine"], limit_s=_LIMIT_S, on_line=lines.append)
    if ended.problem is None and lines:
        facts: dict[str, Any] = json.loads(lines[-1])
        return facts
    return {"gpu": None, "problem": f"{ended.problem}: {' / '.join(lines[-3:])}"}


def facts() -> dict[str, Any]:
    """What the current process finds."""
    on_gpu = torch.cuda.is_available()
    known = asdict(provenance(torch.device("cuda" if on_gpu else "cpu"), argparse.Namespace()))
    known.pop("arguments")
    known["commit"] = known["commit"] or UNKNOWN
    # The digest names the code that ran where there is no git.
    own = {"nvcc": nvcc(), "sources": sources_digest(), "backends": fused_resnet.backend.summary()}
    return {"gpu": gpu() if on_gpu else None, **known, **own}


def gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": driver(),
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
    }


def driver() -> str:
    """The version that nvidia-smi tells."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN


def nvcc() -> str:
    try:
        return find_nvcc(os.environ).version
    except CannotBuildError as error:
        return f"none: {error}"


if __name__ == "__main__":
    print(json.dumps(facts()))
