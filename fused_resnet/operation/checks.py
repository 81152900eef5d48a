"""Refuses what `residual_tail` cannot compute, before anything is computed or written."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from .branches import Activation, Branch, Direct, Norm, Placement, Projection, ZeroPad, named_tensors, output_shape

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
HALF_DTYPES = (torch.float16, torch.bfloat16)


def check_tail(main: Branch, shortcut: Branch | None, activation: Activation) -> None:
    """Checks a whole call.

    Raises:
        TypeError: something is not a branch or a tensor, or dtypes are unsupported or differ.
        ValueError: shapes, devices or settings do not fit together.
    """
    if activation not in ("relu", None):
        raise ValueError(f"activation is {activation!r}, expected 'relu' or None")
    _check_branch("main", main)
    if shortcut is None:
        return
    _check_branch("shortcut", shortcut)
    if shortcut.x.dtype != main.x.dtype:
        raise TypeError(f"shortcut.x is {shortcut.x.dtype}, expected main.x's {main.x.dtype}")
    if shortcut.x.device != main.x.device:
        raise ValueError(f"shortcut.x is on {shortcut.x.device}, expected main.x's {main.x.device}")
    if output_shape(shortcut) != output_shape(main):
        raise ValueError(
            f"shortcut gives shape {output_shape(shortcut)}, expected main's {output_shape(main)}"
            f" (shortcut.x {tuple(shortcut.x.shape)}, stride {shortcut.stride})"
        )


def _check_branch(name: str, branch: Branch) -> None:
    if not isinstance(branch, Direct | Projection | ZeroPad):
        raise TypeError(f"{name} is a {type(branch).__name__}, expected Direct, Projection or ZeroPad")
    _check_input(f"{name}.x", branch.x)
    if branch.norm is not None and not isinstance(branch.norm, Norm):
        raise TypeError(f"{name}.norm is a {type(branch.norm).__name__}, expected Norm or None")
    for tensor_name, tensor in named_tensors(branch):
        if tensor.device != branch.x.device:
            raise ValueError(f"{name}.{tensor_name} is on {tensor.device}, expected {name}.x's {branch.x.device}")
    if not isinstance(branch.stride, int) or branch.stride < 1:
        raise ValueError(f"{name}.stride is {branch.stride!r}, expected an integer of at least 1")
    if isinstance(branch, Projection):
        _check_projection(name, branch)
    elif isinstance(branch, ZeroPad):
        _check_zero_pad(name, branch)
    if branch.norm is not None:
        _check_norm(f"{name}.norm", branch.norm, branch)


def _check_input(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}, expected a tensor")
    if x.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected four dimensions: (N, C, H, W)")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} is {x.dtype}, expected one of {', '.join(map(str, DTYPES))}")


def _check_projection(name: str, branch: Projection) -> None:
    weight, channels = branch.weight, branch.x.shape[1]
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name}.weight is a {type(weight).__name__}, expected a tensor")
    if weight.dim() != 4 or weight.shape[1:] != (channels, 1, 1):
        raise ValueError(f"{name}.weight has shape {tuple(weight.shape)}, expected (C, {channels}, 1, 1)")
    if branch.bias is not None:
        _check_vector(f"{name}.bias", branch.bias, branch.out_channels)
    for tensor_name, tensor in (("weight", weight), ("bias", branch.bias)):
        if tensor is not None and tensor.dtype != branch.x.dtype:
            raise TypeError(f"{name}.{tensor_name} is {tensor.dtype}, expected {name}.x's {branch.x.dtype}")


def _check_zero_pad(name: str, branch: ZeroPad) -> None:
    channels = branch.x.shape[1]
    if not isinstance(branch.out_channels, int) or branch.out_channels < channels:
        raise ValueError(f"{name}.out_channels is {branch.out_channels!r}, expected at least {name}.x's {channels}")
    if branch.placement not in get_args(Placement):
        raise ValueError(f"{name}.placement is {branch.placement!r}, expected 'end' or 'both'")


def _check_norm(name: str, norm: Norm, branch: Branch) -> None:
    vectors = {v: getattr(norm, v) for v in ("weight", "bias", "running_mean", "running_var")}
    given = {vector_name: vector for vector_name, vector in vectors.items() if vector is not None}
    allowed = (branch.x.dtype, torch.float32) if branch.x.dtype in HALF_DTYPES else (branch.x.dtype,)
    for vector_name, vector in given.items():
        _check_vector(f"{name}.{vector_name}", vector, branch.out_channels)
        if vector.dtype not in allowed:
            raise TypeError(f"{name}.{vector_name} is {vector.dtype}, expected {' or '.join(map(str, allowed))}")
    if len({vector.dtype for vector in given.values()}) > 1:
        dtypes = ", ".join(f"{vector_name} {vector.dtype}" for vector_name, vector in given.items())
        raise TypeError(f"{name} has vectors of different dtypes ({dtypes}), expected one for all")
    if (norm.running_mean is None) != (norm.running_var is None):
        raise ValueError(f"{name} has only one of running_mean and running_var, expected both or neither")
    if not norm.training and norm.running_mean is None:
        raise ValueError(f"{name}.running_mean is None, expected running statistics where training is False")
    if norm.training:
        _check_training_norm(name, norm, output_shape(branch))


def _check_training_norm(name: str, norm: Norm, shape: tuple[int, int, int, int]) -> None:
    if not isinstance(norm.num_batches_tracked, Tensor | None):
        raise TypeError(
            f"{name}.num_batches_tracked is a {type(norm.num_batches_tracked).__name__}, expected a tensor or None"
        )
    if norm.momentum is None and norm.running_mean is not None and norm.num_batches_tracked is None:
        raise ValueError(f"{name}.num_batches_tracked is None, expected a tensor where momentum is None")
    if not isinstance(norm.process_group, str | None):
        raise TypeError(f"{name}.process_group is a {type(norm.process_group).__name__}, expected a name or None")
    n, _, h, w = shape
    if n * h * w == 1 and norm.process_group is None:
        raise ValueError(
            f"{name}: Expected more than 1 value per channel when training, got input size {torch.Size(shape)}"
        )


def _check_vector(name: str, vector: Tensor, channels: int) -> None:
    if not isinstance(vector, Tensor):
        raise TypeError(f"{name} is a {type(vector).__name__}, expected a tensor or None")
    if vector.shape != (channels,):
        raise ValueError(f"{name} has shape {tuple(vector.shape)}, expected ({channels},)")
