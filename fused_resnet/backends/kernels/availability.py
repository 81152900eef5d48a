"""Whether the CUDA kernels can be used, and on which GPU."""

from __future__ import annotations

import functools
import warnings

import torch

from ...kernel_build.architectures import OLDEST
from . import loading
from .compatibility import runs_on

_warned = False


def missing() -> str | None:
    """Why no GPU here can run the kernels; None where one can."""
    each = [missing_on(index) for index in range(max(1, torch.cuda.device_count()))]
    return None if None in each else each[0]


@functools.cache
def missing_on(index: int) -> str | None:
    """Why the GPU of this index cannot run the kernels, and what mends it; None where it can."""
    if not torch.cuda.is_available():
        return loading.load("_C")[1] or "torch finds no GPU"
    capability = torch.cuda.get_device_capability(index)
    gpu = f"cuda:{index} ({torch.cuda.get_device_name(index)}) is {'{}.{}'.format(*capability)}"
    if capability < OLDEST:
        return f"{gpu}, and the kernels need architecture {'{}.{}'.format(*OLDEST)} or later"
    reason, mending = loading.load("_C")[1], loading.MENDING["_C"]
    if reason is not None:
        return reason if mending in reason else f"{reason}: {mending}"
    built_for = loading.built_with("_C").get("architectures")
    if built_for is None or runs_on(built_for, capability):
        return None
    return f"built for architectures {built_for}, but {gpu}: {mending}"


def warn_of_fallback(reason: str) -> None:
    """Warns once a process, by the first reason."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"fused_resnet computes by plain PyTorch, its CUDA kernels cannot be used: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
