"""What a build needs from the machine, looked up and asked for its version; what is missing ends in an error."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Version = tuple[int, ...]

# The headers of PyTorch 2.14 need it, and those of earlier ones take it: one standard for all. nvcc has it since 12.0.
STANDARD = "c++20"
OLDEST_NVCC = (12, 0)
# `c10::Stream::native_handle`.
OLDEST_TORCH = (2, 11)
# `license = "MIT"` in pyproject.toml.
OLDEST_SETUPTOOLS = (77,)
PROBE = """\
#include <concepts>
template <std::integral T> int twice(T x) requires(sizeof(T) > 1) { return 2 * x; }
__global__ void kernel() {}
int f() { return twice(1); }
"""


class CannotBuildError(Exception):
    """Why something cannot be built, in one line: what is missing, where it was looked for, what to do."""


@dataclass(frozen=True)
class Nvcc:
    path: Path
    version: str
    architectures: frozenset[str]  # those that it compiles for, as in "9.0"

    def __str__(self) -> str:
        return f"nvcc {self.version} ({self.path})"


@dataclass(frozen=True)
class Torch:
    folder: Path
    version: str
    cuda: str | None  # None: built without CUDA

    def __str__(self) -> str:
        return f"torch {self.version} ({self.folder})"


def release(version: str) -> Version:
    """The leading numbers of a version."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def shown(version: Version) -> str:
    return ".".join(map(str, version))


def _output(*command: str | Path) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotBuildError(f"`{' '.join(map(str, command))}` failed: {error}") from error


def _nvcc_candidates(environ: Mapping[str, str], usual: Path) -> Iterator[tuple[str, Path]]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if environ.get(name):
            yield f"{name}={environ[name]}", Path(environ[name], "bin", "nvcc")
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    yield "PATH", Path(on_path or "")
    yield str(usual), usual / "bin" / "nvcc"


def find_nvcc(environ: Mapping[str, str], usual: Path = Path("/usr/local/cuda")) -> Nvcc:
    looked_in = []
    for place, path in _nvcc_candidates(environ, usual):
        if path.is_file() and os.access(path, os.X_OK):
            return _asked(path)
        looked_in.append(place)
    raise CannotBuildError(f"no nvcc was found in {', '.join(looked_in)}: install the CUDA toolkit or set CUDA_HOME")


def _asked(path: Path) -> Nvcc:
    found = re.search(r"release (\d+\.\d+)", text := _output(path, "--version"))
    if not found:
        raise CannotBuildError(f"`{path} --version` prints no release: {text!r}")
    version = found.group(1)
    if release(version) < OLDEST_NVCC:
        raise CannotBuildError(
            f"nvcc {version} ({path}) is older than {shown(OLDEST_NVCC)}: install a newer CUDA toolkit or set CUDA_HOME"
        )
    listed = re.findall(r"compute_(\d+)(\d)\b", _output(path, "--list-gpu-arch"))
    return Nvcc(path, version, frozenset(f"{major}.{minor}" for major, minor in listed))


def find_torch(search_path: list[str] | None = None) -> Torch:
    """Reads the version of torch without importing it: a torch that does not load here can still be built for."""
    if search_path is None:
        spec = importlib.util.find_spec("torch")
    else:
        spec = importlib.machinery.PathFinder.find_spec("torch", search_path)
    if spec is None or spec.origin is None:
        raise CannotBuildError(
            "torch is not in the environment that builds: "
            "install with --no-build-isolation, or run `python -m fused_resnet build` afterwards"
        )
    folder = Path(spec.origin).parent
    facts = runpy.run_path(str(folder / "version.py"))
    torch = Torch(folder, facts["__version__"], facts.get("cuda"))
    if release(torch.version) < OLDEST_TORCH:
        raise CannotBuildError(f"{torch} is older than {shown(OLDEST_TORCH)}: the kernels need a newer torch")
    if facts.get("hip"):
        raise CannotBuildError(f"{torch} is built for ROCm: the kernels need a torch for CUDA")
    return torch


def check_pair(nvcc: Nvcc, torch: Torch) -> None:
    """Libraries of two major versions of CUDA do not belong in one process."""
    if torch.cuda is not None and release(torch.cuda)[0] != release(nvcc.version)[0]:
        raise CannotBuildError(
            f"{nvcc} and {torch} for CUDA {torch.cuda} differ in the major version of CUDA: "
            f"set CUDA_HOME to a CUDA {release(torch.cuda)[0]} toolkit or install a torch for CUDA {nvcc.version}"
        )


def static_runtime(nvcc: Nvcc) -> Path:
    """The CUDA runtime that modules are linked to, in the folders where this nvcc would look for it."""
    command = [str(nvcc.path), "--dryrun", "-x", "cu", os.devnull, "-o", os.devnull]
    told = subprocess.run(command, capture_output=True, text=True)
    line = re.search(r"^#\$ LIBRARIES=(.*)$", told.stdout + told.stderr, re.MULTILINE)
    folders = [Path(word[2:]) for word in shlex.split(line[1]) if word.startswith("-L")] if line else []
    for folder in folders:
        if (found := folder / "libcudart_static.a").is_file():
            return found.resolve()
    places = ", ".join(map(str, folders)) or "no folder that it names"
    raise CannotBuildError(f"{nvcc} has no libcudart_static.a ({places}): install the whole CUDA toolkit")


def host_compiler(environ: Mapping[str, str]) -> Path:
    name = environ.get("CXX") or "g++"
    found = shutil.which(name, path=environ.get("PATH", ""))
    if found is None:
        raise CannotBuildError(f"no C++ compiler was found: {name} is not in PATH; install g++ or set CXX")
    return Path(found)


def check_host_compiler(nvcc: Nvcc, compiler: Path) -> None:
    """Compiles a few lines: whether two compilers go together is theirs to say."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cu")
        source.write_text(PROBE)
        files = ["-c", str(source), "-o", str(source.with_suffix(".o"))]
        command = [str(nvcc.path), "-ccbin", str(compiler), f"-std={STANDARD}", *files]
        probe = subprocess.run(command, capture_output=True, text=True)
    if probe.returncode != 0:
        said = [line.strip() for line in (probe.stderr + probe.stdout).splitlines() if line.strip()]
        first = next((line for line in said if "error" in line), said[0] if said else f"exit {probe.returncode}")
        raise CannotBuildError(
            f"{nvcc} does not compile C++20 with {compiler} (version {_output(compiler, '-dumpversion').strip()}), "
            f"set CXX to a compiler that it supports: {first}"
        )


def find_ninja(environ: Mapping[str, str]) -> Path:
    """Looks in PATH and beside Python, where pip puts it."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("ninja", path=os.pathsep.join([environ.get("PATH", ""), beside]))
    if found is None:
        raise CannotBuildError(f"ninja was not found in PATH or {beside}: pip install ninja")
    return Path(found)


def check_setuptools(version: str) -> None:
    """Refuses an old setuptools, whose own error names no cause: without an isolated environment pip does not look."""
    if release(version) < OLDEST_SETUPTOOLS:
        wanted = f"setuptools>={shown(OLDEST_SETUPTOOLS)}"
        raise SystemExit(f"fused_resnet: setuptools {version} is too old to build it: pip install '{wanted}'")


def python_headers() -> Path:
    folder = Path(sysconfig.get_path("include"))
    if not (folder / "Python.h").exists():
        raise CannotBuildError(
            f"there is no {folder / 'Python.h'}: install the headers of Python {sysconfig.get_python_version()}"
        )
    return folder
