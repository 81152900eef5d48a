"""Which implementation computes the tails: what there is, what is chosen, and why something is missing.

==========  ==================================================================================
cuda        the CUDA kernels, on a GPU
emulated    the same kernels run on the CPU: a testing aid, slow, never chosen by "auto"
reference   plain PyTorch, on any device
==========  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from . import _availability, _kernels, kernels, moments
from ._setting import RestoredOnExit, Setting
from .branches import Activation, Branch
from .requirement import kernels_required, require_kernels

Backend: TypeAlias = Literal["cuda", "emulated", "reference"]
BackendChoice: TypeAlias = Literal["auto", "cuda", "emulated", "reference"]
ResidualTail: TypeAlias = Callable[[Branch, Branch | None, Activation], Tensor]

_chosen: Setting[BackendChoice] = Setting("auto")


def available_backends() -> dict[Backend, str | None]:
    """Every backend with the reason why it cannot be used, None where it can: "cuda" on one GPU at least."""
    return {"cuda": _availability.missing(), "emulated": _kernels.load("_emulated")[1], "reference": None}


def use_backend(name: BackendChoice) -> RestoredOnExit[BackendChoice]:
    """Chooses the backend of every later call, or, as a context manager, of those within.

    The choice is made when a tail is computed; its backward stays with the same backend. "auto" (the default) takes
    "cuda" for tensors on a GPU where it is available and "reference" otherwise. It warns, once a process, where the
    kernels were built and cannot be used on the GPU; with FUSED_RESNET_REQUIRE=cuda in the environment, a tail that it
    would leave to "reference" raises RuntimeError.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: it cannot be used here; the message says why.
    """
    if name not in get_args(BackendChoice):
        raise ValueError(f"backend is {name!r}, expected one of {', '.join(map(repr, get_args(BackendChoice)))}")
    reason = None if name == "auto" else available_backends()[name]
    if reason is not None:
        raise RuntimeError(f"backend {name!r} is not available: {reason}")
    return _chosen.set(name)


def implementation() -> ResidualTail:
    """What computes the tails of the current choice."""
    return {"auto": _automatic, "cuda": _cuda, "emulated": _emulated, "reference": moments.residual_tail}[_chosen.value]


def _automatic(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    return (_cuda if kernels_take(main.x.device) else moments.residual_tail)(main, shortcut, activation)


def kernels_take(device: torch.device) -> bool:
    """Whether "auto" leaves tensors on the device to the CUDA kernels.

    Raises:
        RuntimeError: it does not, but FUSED_RESNET_REQUIRE=cuda.
        ValueError: FUSED_RESNET_REQUIRE is neither "cuda" nor empty.
    """
    on_gpu = device.type == "cuda"
    reason = _availability.missing_on(device.index) if on_gpu else f"its tensors are on {device}"
    if kernels_required() and reason is not None:
        require_kernels(reason)
    if reason is not None and on_gpu and _kernels.was_built("_C"):
        _availability.warn_of_fallback(reason)
    return reason is None


def _cuda(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    reason = _availability.missing_on(main.x.device.index) if main.x.is_cuda else None
    if reason is not None:
        raise RuntimeError(f"backend 'cuda' cannot be used here: {reason}")
    return _by_kernels("_C", main, shortcut, activation)


def _emulated(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    return _by_kernels("_emulated", main, shortcut, activation)


def _by_kernels(name: _kernels.Name, main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    module, reason = _kernels.load(name)
    if module is None:
        raise RuntimeError(reason)
    return kernels.residual_tail(module, main, shortcut, activation)


def summary() -> str:
    """One line on what this installation computes with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    reasons = available_backends()
    usable = ", ".join(name for name, reason in reasons.items() if reason is None)
    missing = "".join(f"; no {name}: {reason}" for name, reason in reasons.items() if reason is not None)
    return f"{device}, torch {torch.__version__}; backends: {usable}{missing}"
