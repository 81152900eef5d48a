"""What this installation builds, decided from the environment, and the one line that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import toolchain
from .architectures import Architectures, architectures
from .toolchain import CannotBuildError, Nvcc, Torch


@dataclass(frozen=True)
class Tools:
    torch: Torch
    ninja: Path
    python_headers: Path
    compiler: Path


@dataclass(frozen=True)
class CudaTools(Tools):
    nvcc: Nvcc
    runtime: Path  # libcudart_static.a
    wanted: Architectures

    @property
    def architectures(self) -> list[str]:
        return self.wanted.names


@dataclass(frozen=True)
class EmulatorTools(Tools):
    sanitize: bool


@dataclass(frozen=True)
class Decision:
    """`tools` to build the module with, or None and the reason why not.

    `required`: it was asked for, and the installation fails without.
    """

    module: str
    tools: Tools | None
    reason: str
    required: bool = False

    @property
    def line(self) -> str:
        return f"fused_resnet: {'' if self.tools else 'no '}{self.module}: {self.reason}"


def flag(environ: Mapping[str, str], name: str) -> bool | None:
    value = environ.get(name, "").strip()
    if value not in ("", "0", "1"):
        raise SystemExit(f"fused_resnet: {name} is {value!r}, expected 0 or 1")
    return None if value == "" else value == "1"


def _common_tools(environ: Mapping[str, str], torch: Torch) -> tuple[Torch, Path, Path, Path]:
    return torch, toolchain.find_ninja(environ), toolchain.python_headers(), toolchain.host_compiler(environ)


def cuda_tools(environ: Mapping[str, str]) -> CudaTools:
    nvcc = toolchain.find_nvcc(environ)
    torch = toolchain.find_torch()
    toolchain.check_pair(nvcc, torch)
    wanted = architectures(environ.get("TORCH_CUDA_ARCH_LIST", ""), nvcc)
    common = _common_tools(environ, torch)
    toolchain.check_host_compiler(nvcc, common[-1])
    return CudaTools(*common, nvcc, toolchain.static_runtime(nvcc), wanted)


def emulator_tools(environ: Mapping[str, str]) -> EmulatorTools:
    return EmulatorTools(
        *_common_tools(environ, toolchain.find_torch()), flag(environ, "FUSED_RESNET_SANITIZE") is True
    )


def decide_cuda(environ: Mapping[str, str], find: Callable[[Mapping[str, str]], CudaTools] = cuda_tools) -> Decision:
    wanted = flag(environ, "FUSED_RESNET_CUDA")
    if wanted is False:
        return Decision("_C", None, "installed without CUDA kernels: FUSED_RESNET_CUDA=0")
    try:
        tools = find(environ)
    except CannotBuildError as error:
        if wanted:
            return Decision("_C", None, f"FUSED_RESNET_CUDA=1, but {error}", required=True)
        return Decision("_C", None, f"installed without CUDA kernels: {error}")
    return Decision("_C", tools, described(tools), required=wanted is True)


def described(tools: CudaTools) -> str:
    return f"{tools.nvcc}, {tools.torch}, {tools.wanted}"


def decide_emulated(
    environ: Mapping[str, str], find: Callable[[Mapping[str, str]], EmulatorTools] = emulator_tools
) -> Decision:
    if not flag(environ, "FUSED_RESNET_EMULATOR"):
        return Decision("_emulated", None, "a testing aid, built by FUSED_RESNET_EMULATOR=1")
    try:
        tools = find(environ)
    except CannotBuildError as error:
        return Decision("_emulated", None, f"FUSED_RESNET_EMULATOR=1, but {error}", required=True)
    reason = f"{tools.compiler}, {tools.torch}{', sanitized' if tools.sanitize else ''}"
    return Decision("_emulated", tools, reason, required=True)
