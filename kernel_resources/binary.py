"""What the compiler made of the kernels, read from a built module by NVIDIA's cuobjdump and nvdisasm."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MATHS = ("float32", "tf32", "bfloat16", "float16")


class ToolMissingError(Exception):
    """Which tool was not found, and how to install it."""


@dataclass(frozen=True)
class Kernel:
    kind: str  # "forward", of forward_kernel
    math: str  # one of MATHS: how products are computed
    numbers: tuple[int, ...]  # the other template arguments

    @property
    def family(self) -> str:
        """The name without the math, "forward<1>": what the module's `launch_needs` calls it."""
        return f"{self.kind}<{', '.join(map(str, self.numbers))}>"

    @property
    def order(self) -> tuple[int, str, tuple[int, ...]]:
        return MATHS.index(self.math), self.kind, self.numbers

    def __str__(self) -> str:
        return f"{self.kind}<{', '.join([self.math, *map(str, self.numbers)])}>"


@dataclass(frozen=True)
class Usage:
    architecture: str  # "8.0"
    kernel: Kernel
    registers: int
    stack: int  # bytes a thread; spilled registers live there
    local: int
    static_shared: int  # bytes a block, with what the system keeps for itself where the compiler counts it


def kernel(function: str) -> Kernel:
    """From the mangled name of an instance of a template `<kind>_kernel`."""
    found = re.search(r"\d+([a-z_]+)_kernelI(.*)E+v", function)
    math = found and re.search(r"\d(float32|tf32|bfloat16|float16)(Products)?E", found[2], re.IGNORECASE)
    if not found or not math:
        raise ValueError(f"the name of kernel {function} is not one that kernel_build.binary knows")
    return Kernel(found[1], math[1].lower(), tuple(int(number) for number in re.findall(r"L[ib](\d+)E", found[2])))


def find_tool(name: str) -> Path:
    """In PATH, where the CUDA toolkit puts it, or in the wheel `nvidia-cuda-<name>`, which does not add it to PATH."""
    if on_path := shutil.which(name):
        return Path(on_path)
    wheel = f"nvidia-cuda-{name}"
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name and (path := Path(str(file.locate()))).is_file():
            return path
    raise ToolMissingError(f"{name} was not found in PATH: install the CUDA toolkit or `pip install {wheel}`")


def usages(library: Path) -> list[Usage]:
    """The usage of each kernel for each architecture that the library or cubin contains code for."""
    text = _output(find_tool("cuobjdump"), "--dump-resource-usage", library.resolve())
    found, architecture = [], ""
    for line in re.finditer(r"arch = sm_(\d+)(\d)|Function (\S+):\s+(REG:.*)", text):
        if line[1]:
            architecture = f"{line[1]}.{line[2]}"
        else:
            found.append(_usage(architecture, line[3], line[4]))
    return found


def _usage(architecture: str, function: str, numbers: str) -> Usage:
    of = {key: int(number) for key, number in re.findall(r"(\w+):(\d+)", numbers)}
    return Usage(architecture, kernel(function), of["REG"], of["STACK"], of["LOCAL"], of["SHARED"])


def extract(library: Path, architecture: str, folder: Path) -> list[Path]:
    """Cubins of the library's code for the architecture, one for each source, in the folder."""
    number = f"sm_{architecture.replace('.', '')}"
    _output(find_tool("cuobjdump"), "--extract-elf", f".{number}.", library.resolve(), folder=folder)
    return sorted(folder.glob(f"*.{number}.cubin"))


def disassembled(cubin: Path) -> dict[Kernel, str]:
    """Each kernel's code as text, for `ways.Code`."""
    text = _output(find_tool("nvdisasm"), "--print-code", cubin)
    parts = re.split(r"^\.text\.(\S+):$", text, flags=re.MULTILINE)
    return {kernel(name): code for name, code in zip(parts[1::2], parts[2::2], strict=True)}


def _output(*command: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(map(str, command))}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
