"""Whether the CUDA kernels can be used, and on which GPU."""

from __future__ import annotations

import functools
import warnings

import torch

from . import _kernels
from ._architectures import runs_on

_warned = False


def missing() -> str | None:
    """Why no GPU here can run the kernels; None where one can."""
    reason = _kernels.load("_C")[1]
    if reason is not None:
        return reason
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    each = [missing_on(index) for index in range(torch.cuda.device_count())]
    return None if None in each else each[0]


@functools.cache
def missing_on(index: int) -> str | None:
    """Why the GPU of this index cannot run the kernels; None where it can."""
    reason = _kernels.load("_C")[1]
    built_for = _kernels.built_with("_C").get("architectures")
    if reason is not None or built_for is None:
        return reason
    capability = torch.cuda.get_device_capability(index)
    if runs_on(built_for, capability):
        return None
    own = "{}.{}".format(*capability)
    gpu = f"cuda:{index} ({torch.cuda.get_device_name(index)})"
    mending = _kernels.reinstall(f'TORCH_CUDA_ARCH_LIST="{built_for} {own}" ')
    return f"built for architectures {built_for}, but {gpu} is {own}: {mending}"


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
