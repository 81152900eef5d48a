"""The commands that make each module: the same sources, for GPUs by nvcc, for the emulator by a C++ compiler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .architectures import code_flags
from .decision import CudaTools, EmulatorTools, Tools
from .toolchain import STANDARD

KERNELS = Path("csrc")
EMULATOR = Path("tests/emulator")
TORCH_LIBRARIES = ("c10", "torch_cpu", "torch_python")
# Hidden symbols: both modules contain the same names, and the loader would give one of them to both.
HOST_FLAGS = ("-fPIC", "-fvisibility=hidden")
SANITIZER_FLAGS = ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g1")
# With these instructions `std::fma` is one of them, not a call.
VECTOR_FEATURES = {"avx2", "bmi2", "fma", "movbe"}


@dataclass(frozen=True)
class Recipe:
    """`compile` takes a source and an object, `link` objects and `libraries`; paths of sources are relative."""

    sources: tuple[Path, ...]
    compile: tuple[str, ...]
    link: tuple[str, ...]
    libraries: tuple[str, ...]
    facts: dict[str, str | bool]  # what the installed package remembers of the build


def sources(root: Path, *folders: Path, endings: tuple[str, ...] = (".cpp", ".cu")) -> tuple[Path, ...]:
    found = (path for folder in folders for path in (root / folder).rglob("*") if path.suffix in endings)
    return tuple(sorted(path.relative_to(root) for path in found))


def _module_flags(module: str, tools: Tools) -> list[str]:
    """Headers of others are system headers: their warnings are not ours.

    What torch's headers check in our code says where it failed, and no more: their messages would bring streams in.
    """
    include = tools.torch.folder / "include"
    headers = (include, include / "torch" / "csrc" / "api" / "include", tools.python_headers)
    defined = [f"-DTORCH_EXTENSION_NAME={module}", "-DSTRIP_ERROR_MESSAGES"]
    return [*defined, *(part for path in headers for part in ("-isystem", str(path)))]


def _libraries(tools: Tools) -> tuple[str, ...]:
    """`import torch` has loaded them before the module is: no search path is recorded."""
    return (f"-L{tools.torch.folder / 'lib'}", *(f"-l{name}" for name in TORCH_LIBRARIES))


def cuda_recipe(root: Path, tools: CudaTools) -> Recipe:
    """Compiled by nvcc, which knows where its headers are; linked by the host compiler.

    nvcc's own link may take libstdc++ in statically. Beside the one that torch has loaded that is a second set of
    locales, and the first number that is written to a stream may end the process.
    """
    nvcc = [str(tools.nvcc.path), "-ccbin", str(tools.compiler), "-Xcompiler", ",".join(HOST_FLAGS)]
    # The kernels themselves say where a product and a sum are one operation, so rounding is the same everywhere.
    flags = [f"-std={STANDARD}", "-O3", "-fmad=false", *code_flags(tools.architectures), "-I", str(root / KERNELS)]
    facts: dict[str, str | bool] = {
        "torch": tools.torch.version,
        "nvcc": tools.nvcc.version,
        "architectures": " ".join(tools.architectures),
    }
    return Recipe(
        sources(root, KERNELS),
        (*nvcc, *flags, *_module_flags("_C", tools), "-c"),
        (str(tools.compiler), "-shared"),
        (*_libraries(tools), str(tools.runtime), "-ldl", "-lrt", "-lpthread"),
        facts,
    )


def vector_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    features = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return ["-march=x86-64-v3"] if set(features) >= VECTOR_FEATURES else []


def emulator_recipe(root: Path, tools: EmulatorTools) -> Recipe:
    compiler = [str(tools.compiler), *HOST_FLAGS, *(SANITIZER_FLAGS if tools.sanitize else ())]
    warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    flags = [f"-std={STANDARD}", "-O2", "-ffp-contract=off", *vector_flags(), *warnings]
    # In this order: the emulator's headers stand in for those of the same name.
    own = ["-I", str(root / EMULATOR), "-I", str(root / KERNELS)]
    return Recipe(
        (*sources(root, KERNELS), *sources(root, EMULATOR / "engine")),
        (*compiler, *flags, *own, *_module_flags("_emulated", tools), "-x", "c++", "-c"),
        (*compiler, "-shared"),
        (*_libraries(tools), "-pthread"),
        {"torch": tools.torch.version, "sanitized": tools.sanitize},
    )


def recipe(root: Path, tools: Tools) -> Recipe:
    return cuda_recipe(root, tools) if isinstance(tools, CudaTools) else emulator_recipe(root, _emulator(tools))


def _emulator(tools: Tools) -> EmulatorTools:
    assert isinstance(tools, EmulatorTools)
    return tools
