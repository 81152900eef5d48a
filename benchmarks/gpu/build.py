"""The stage ``build``: the kernels for the GPU that is there, and whether they compute what they should."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile

from fused_resnet.kernel_build.toolchain import CannotBuildError, find_ninja, release

from .process import run
from .record import Record

COMPILE_LIMIT_S = 320.0
CHECKS_LIMIT_S = 100.0
# The rehearsal compiles for what a GPU of the data centres is.
REHEARSED_CAPABILITY = "9.0"
# As `pyproject.toml` requires it: earlier ones refuse its `license`.
OLDEST_SETUPTOOLS = (77,)


def run_stage(record: Record, rehearse: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not compile_kernels(record, folder if rehearse else None):
            return
        if rehearse:
            _check_import(record, folder)
    check_results(record, rehearse)


def compile_kernels(record: Record, folder: str | None) -> bool:
    """Builds in the package's folder, or a package in another folder; the emulator's module is not touched there."""
    gpu = record.machine["gpu"]
    capability = gpu["capability"] if gpu else REHEARSED_CAPABILITY
    missing = missing_for_setup()
    if missing is not None:
        record.note(f"built without setup.py: {missing}")
    command = build_command(missing is None, folder)
    record.log(f"TORCH_CUDA_ARCH_LIST={capability} FUSED_RESNET_CUDA=1 {' '.join(command)}")
    environment = {"TORCH_CUDA_ARCH_LIST": capability, "FUSED_RESNET_CUDA": "1"}
    ended = run(command, limit_s=COMPILE_LIMIT_S, on_line=record.take, environment=environment)
    problem = {} if ended.problem is None else {"problem": ended.problem}
    record.add(step="compile", architecture=capability, seconds=round(ended.seconds, 1), **problem)
    record.headline = f"compiled for {capability} in {ended.seconds:.0f} s"
    return ended.problem is None


def build_command(by_setup: bool, folder: str | None) -> list[str]:
    """Never pip: systems refuse that where a venv is not used."""
    if not by_setup:
        return [sys.executable, "-m", "benchmarks.gpu.direct_build", *([folder] if folder else [])]
    where = ["--build-lib", folder] if folder else ["--inplace"]
    return [sys.executable, "setup.py", "build_ext", *where]


def missing_for_setup() -> str | None:
    """Why ``setup.py`` cannot be used, None where it can."""
    try:
        version = importlib.metadata.version("setuptools")
        find_ninja(os.environ)
    except importlib.metadata.PackageNotFoundError:
        return "setuptools is not installed"
    except CannotBuildError as error:
        return str(error)
    return None if release(version) >= OLDEST_SETUPTOOLS else f"setuptools {version} cannot read pyproject.toml"


def _check_import(record: Record, folder: str) -> None:
    """The module is loaded as the package would load it; there is no GPU to run it on."""
    code = (
        "import importlib.util, pathlib, sys, torch\n"
        "path, = pathlib.Path(sys.argv[1], 'fused_resnet').glob('_C*.so')\n"
        "spec = importlib.util.spec_from_file_location('_C', path)\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print('imported', path.name, module.Forward, sep=', ')\n"
    )
    ended = run([sys.executable, "-c", code, folder], limit_s=60, on_line=record.log)
    record.add(step="import", **({} if ended.problem is None else {"problem": ended.problem}))


def check_results(record: Record, rehearse: bool) -> None:
    arguments = ["--rehearse"] if rehearse else []
    command = [sys.executable, "-m", "benchmarks.gpu.checks", *arguments]
    ended = run(command, limit_s=CHECKS_LIMIT_S, on_line=record.take)
    if ended.problem is not None:
        record.problem(f"checks: {ended.problem}")
    checks = [item for item in record.items if "check" in item]
    good = sum("problem" not in item for item in checks)
    record.headline += f"; {good} of {len(checks)} checks passed"
    if not checks:
        record.problem("nothing was checked")
