"""Compiles the CUDA kernels for the installed PyTorch and for the GPUs that are here; the next import uses them.

They go into a folder of the user's: ~/.cache/fused_resnet, or FUSED_RESNET_CACHE. After an upgrade of PyTorch the same
command compiles them for the new one. Where there is no GPU they are compiled for all usual ones, or for those that
TORCH_CUDA_ARCH_LIST names, such as "8.0 9.0". Needs nvcc 12.0 or later and a C++ compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from .architectures import for_gpus
from .cache import built_folder, cache_folder, file_name, log_file, sources_digest, sources_root, store_module
from .compilation import CompilationError, compile_module
from .decision import CudaTools, cuda_tools, described
from .jobs import available_memory, jobs, usable_cpus
from .recipes import recipe
from .toolchain import CannotBuildError, find_nvcc

_CHECK = (
    "import pathlib, sys, fused_resnet.backends.kernels.loading as kernels\n"
    "sys.exit(kernels.load_from(pathlib.Path(sys.argv[1]), '_C')[1])\n"
)


def run(_: argparse.Namespace) -> int:
    """Runs the command; returns 0 where the kernels are there and load, and 1, after one line that says why, if not."""
    try:
        _build(os.environ)
    except (CannotBuildError, CompilationError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error}: FUSED_RESNET_CACHE chooses another folder")
    return 0


def _fail(why: str) -> int:
    print(f"fused_resnet: the kernels were not built: {why}", file=sys.stderr)
    return 1


def _build(environ: Mapping[str, str]) -> None:
    tools = cuda_tools({**environ, "TORCH_CUDA_ARCH_LIST": _wanted(environ)})
    cache = cache_folder(environ)
    folder = built_folder(cache, tools.torch.version, tools.nvcc.version, tools.architectures)
    print(f"fused_resnet: {described(tools)}", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f"{folder.name}.lock")):
        if _problem(folder) is None:
            print(f"fused_resnet: they are built already, in {folder}")
            return
        started = time.monotonic()
        _compile(tools, environ, folder)
        if problem := _problem(folder):
            raise CompilationError(problem)
    print(f"fused_resnet: built in {time.monotonic() - started:.0f} s, in {folder}")
    print("fused_resnet: `python -m fused_resnet doctor` checks every kernel")


def _wanted(environ: Mapping[str, str]) -> str:
    """What the user says, or the GPUs that are here; empty: all usual architectures."""
    said = environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if said or not torch.cuda.is_available():
        return said
    capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    return " ".join(for_gpus(capabilities, find_nvcc(environ)))


def _compile(tools: CudaTools, environ: Mapping[str, str], folder: Path) -> None:
    """Compiles in a folder of this process's own, so that nobody else's compilers write into it."""
    number, warning = jobs(environ, usable_cpus(), available_memory())
    if warning:
        print(f"fused_resnet: {warning}", flush=True)
    made = recipe(sources_root(), tools)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as own, _progress() as on_step:
        module = compile_module(
            sources_root(),
            file_name("_C"),
            made,
            tools.ninja,
            folder=Path(own),
            jobs=number,
            log=log_file("_C"),
            on_step=on_step,
        )
        store_module(module, folder, "_C", {**made.facts, "sources": sources_digest()})


def _problem(folder: Path) -> str | None:
    """Why the module in the folder does not load, None where it does. In a process of its own, which may crash."""
    if not (folder / "_C.json").exists():
        return "it is not there"
    done = subprocess.run([sys.executable, "-c", _CHECK, folder], capture_output=True, text=True)
    last = (done.stderr.strip().splitlines() or [f"importing it ends with status {done.returncode}"])[-1]
    return last if done.returncode else None


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Whoever builds the same at the same time waits, and then finds it built."""
    with lock.open("w") as file:
        # File systems that know no locks: both build, in folders of their own, and the later one's replaces the other.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Progress:
    """One line that is written again at each step; on what is no terminal, a line a step."""

    def __init__(self) -> None:
        self._started, self._terminal = time.monotonic(), sys.stdout.isatty()

    def __call__(self, done: int, of: int, what: str) -> None:
        line = f"[{done}/{of}] {time.monotonic() - self._started:4.0f} s  {what}"
        print(f"\r\033[K{line}" if self._terminal else line, end="" if self._terminal else "\n", flush=True)

    def end(self) -> None:
        if self._terminal:
            print()


@contextlib.contextmanager
def _progress() -> Iterator[_Progress]:
    progress = _Progress()
    try:
        yield progress
    finally:
        progress.end()
