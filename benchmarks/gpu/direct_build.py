"""Builds ``_C`` as ``setup.py build_ext`` does, where ninja or a recent setuptools is missing: everything, each time.

python -m benchmarks.gpu.direct_build [FOLDER]     into FOLDER/fused_resnet in place of the package's folder
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fused_resnet.kernel_build import toolchain
from fused_resnet.kernel_build.architectures import architectures
from fused_resnet.kernel_build.decision import CudaTools
from fused_resnet.kernel_build.jobs import available_memory, jobs, usable_cpus
from fused_resnet.kernel_build.recipes import Recipe, recipe

from .process import ROOT


def tools(environ: Mapping[str, str]) -> CudaTools:
    """As `kernel_build.decision` finds them, ninja aside."""
    nvcc, torch = toolchain.find_nvcc(environ), toolchain.find_torch()
    toolchain.check_pair(nvcc, torch)
    compiler = toolchain.host_compiler(environ)
    toolchain.check_host_compiler(nvcc, compiler)
    names = architectures(environ.get("TORCH_CUDA_ARCH_LIST", ""), nvcc)
    return CudaTools(torch, Path("ninja"), toolchain.python_headers(), compiler, nvcc, names)


def build(made: Recipe, into: Path, root: Path = ROOT) -> None:
    """Compiles side by side and links the module ``into``. Raises `subprocess.CalledProcessError`."""
    number = jobs(os.environ, usable_cpus(), available_memory())[0]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(number) as pool:
        objects = [Path(folder, f"{i}.o") for i in range(len(made.sources))]
        commands = [
            [*made.compile, str(root / source), "-o", str(out)]
            for source, out in zip(made.sources, objects, strict=True)
        ]
        list(pool.map(_run, commands))
        linked = Path(folder, "module")
        _run([*made.link, *map(str, objects), *made.libraries, "-o", str(linked)])
        into.parent.mkdir(parents=True, exist_ok=True)
        # Not into the memory of a process that has the old one loaded.
        temporary = into.with_name(f"{into.name}.{os.getpid()}")
        shutil.copy(linked, temporary)
        temporary.replace(into)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


def main(folder: Path) -> None:
    made = recipe(ROOT, tools(os.environ))
    package = folder / "fused_resnet"
    build(made, package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}")
    record = {"python": "{}.{}".format(*sys.version_info), **made.facts}
    (package / "_C.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
