"""Which implementation computes the tails: what there is, what is chosen, and why something is missing.

==========  ==================================================================================
cuda        the CUDA kernels, on a GPU
emulated    the same kernels run on the CPU: a testing aid, slow, never chosen by "auto"
reference   plain PyTorch, on any device
==========  ==================================================================================
"""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeAlias, get_args

import torch

from .backends.kernels import availability, loading
from .backends.kernels.computation import KernelComputation
from .backends.pytorch.computation import ReferenceComputation
from .operation.computation import Computation
from .operation.requirement import kernels_required, require_kernels
from .operation.setting import RestoredOnExit, Setting

Backend: TypeAlias = Literal["cuda", "emulated", "reference"]
BackendChoice: TypeAlias = Literal["auto", "cuda", "emulated", "reference"]

_MODULES: dict[str, loading.Name] = {"cuda": "_C", "emulated": "_emulated"}
choice: Setting[BackendChoice] = Setting("auto")


def available_backends() -> dict[Backend, str | None]:
    """Every backend with the reason why it cannot be used, None where it can: "cuda" on one GPU at least."""
    return {"cuda": availability.missing(), "emulated": loading.load("_emulated")[1], "reference": None}


def use_backend(name: BackendChoice) -> RestoredOnExit[BackendChoice]:
    """Chooses the backend of every later call, or, as a context manager, of those within.

    Forward and backward go by the choice at their own time: any backend can run the backward of another's forward.
    "auto" (the default) takes "cuda" for tensors on a GPU where it is available and "reference" otherwise. It warns,
    once a process, where the kernels cannot be used on the GPU, and names what mends it; with FUSED_RESNET_REQUIRE=cuda
    in the environment, a tail that it would leave to "reference" raises RuntimeError.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: it cannot be used here; the message says why.
    """
    if name not in get_args(BackendChoice):
        raise ValueError(f"backend is {name!r}, expected one of {', '.join(map(repr, get_args(BackendChoice)))}")
    reason = None if name == "auto" else available_backends()[name]
    if reason is not None:
        raise RuntimeError(f"backend {name!r} is not available: {reason}")
    return choice.set(name)


def chosen_for(device: torch.device) -> Backend:
    """The backend of a device's tensors by the current choice."""
    if choice.value != "auto":
        return choice.value
    on_kernels = device.type == "cuda" and availability.missing_on(device.index) is None
    return "cuda" if on_kernels else "reference"


def computation(device: torch.device) -> Computation:
    """What computes the tails of a device's tensors by the current choice.

    Raises:
        RuntimeError: the kernels cannot, and were chosen or are required.
    """
    if choice.value == "auto":
        return _kernel_computation("_C") if kernels_take(device) else ReferenceComputation()
    if choice.value == "cuda" and device.type == "cuda":
        reason = availability.missing_on(device.index)
        if reason is not None:
            raise RuntimeError(f"backend 'cuda' cannot be used here: {reason}")
    return ReferenceComputation() if choice.value == "reference" else _kernel_computation(_MODULES[choice.value])


def kernels_take(device: torch.device) -> bool:
    """Whether "auto" leaves tensors on the device to the CUDA kernels.

    Raises:
        RuntimeError: it does not, but FUSED_RESNET_REQUIRE=cuda.
        ValueError: FUSED_RESNET_REQUIRE is neither "cuda" nor empty.
    """
    on_gpu = device.type == "cuda"
    reason = availability.missing_on(device.index) if on_gpu else f"its tensors are on {device}"
    if kernels_required() and reason is not None:
        require_kernels(reason)
    if reason is not None and on_gpu:
        availability.warn_of_fallback(reason)
    return reason is None


def tile_of(name: Backend) -> tuple[int, int, int] | None:
    """Rows and columns of the kernels' tiles, and how many bytes they are deep; None of plain PyTorch."""
    if name == "reference":
        return None
    module: Any = loading.load(_MODULES[name])[0]
    tile: tuple[int, int, int] = module.tile
    return tile


@functools.cache
def _kernel_computation(name: loading.Name) -> Computation:
    module, reason = loading.load(name)
    if module is None:
        raise RuntimeError(reason)
    return KernelComputation(module)


def summary() -> str:
    """One line on what this installation computes with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    reasons = available_backends()
    usable = ", ".join(name for name, reason in reasons.items() if reason is None)
    missing = "".join(f"; no {name}: {reason}" for name, reason in reasons.items() if reason is not None)
    return f"{device}, torch {torch.__version__}; backends: {usable}{missing}"
