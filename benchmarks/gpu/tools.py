"""Finds NVIDIA's tools, which lie in PATH on few machines."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

_PURELIB = Path(sysconfig.get_path("purelib"))
PLACES = "in PATH, beside nvcc, in /usr/local/cuda*, /opt/nvidia or NVIDIA's wheels"


def find(
    name: str,
    environ: Mapping[str, str] = os.environ,
    *,
    roots: tuple[Path, Path] = (Path("/usr/local"), Path("/opt/nvidia")),
    purelib: Path = _PURELIB,
) -> Path | None:
    """`ncu` or `compute-sanitizer`; `roots` are where CUDA's installer and the tools' own put them."""
    return next((path for path in _candidates(name, environ, *roots, purelib) if os.access(path, os.X_OK)), None)


def _candidates(name: str, environ: Mapping[str, str], usual: Path, opt: Path, purelib: Path) -> Iterator[Path]:
    path = environ.get("PATH", "")
    if on_path := shutil.which(name, path=path):
        yield Path(on_path)
    homes = [Path(environ[variable]) for variable in ("CUDA_HOME", "CUDA_PATH") if environ.get(variable)]
    if nvcc := shutil.which("nvcc", path=path):
        homes.append(Path(nvcc).resolve().parents[1])
    for home in (*homes, usual / "cuda", *sorted(usual.glob("cuda-*"), reverse=True)):
        yield from (home / "bin" / name, home / name / name)
    yield from sorted(opt.glob(f"nsight-compute/*/{name}"), reverse=True)
    yield from (found for found in sorted((purelib / "nvidia").rglob(name)) if found.is_file())
