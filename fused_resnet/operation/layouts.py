"""Memory for what a tail computes, in the layouts that the unfused operations give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from . import reference
from .branches import Branch, Projection, ZeroPad, output_shape
from .computation import (
    Gradients,
    Needs,
    Statistics,
    is_identity,
    operands_of,
    shares_statistics,
    takes_moments,
)

Shape: TypeAlias = tuple[int, int, int, int]
Strides: TypeAlias = tuple[int, ...]


def memory_format(x: Tensor) -> torch.memory_format:
    """The format that PyTorch's convolutions see in x (N, C, H, W): channels_last where its strides ascend so.

    Sizes of one leave it open; as ``c10::is_channels_last_strides_2d`` decides, strides that fit both are contiguous.
    """
    return _format_of(x.shape, x.stride())


def _format_of(shape: Sequence[int], strides: Strides) -> torch.memory_format:
    smallest = 0
    for dim in (1, 3, 2, 0):
        size, stride = shape[dim], strides[dim]
        ambiguous = dim == 0 and smallest == strides[1]
        if size == 0 or stride < smallest or ambiguous or strides[1] == 0:
            return torch.contiguous_format
        smallest = stride * max(size, 1)
    return torch.channels_last


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which x is summed up and its statistics are kept."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def empty_output(branches: Sequence[Branch]) -> Tensor:
    """Memory for the output, laid out as the sum of the branches' addends would be."""
    x, shape = branches[0].x, output_shape(branches[0])
    return torch.empty_strided(shape, _output_strides(branches), dtype=x.dtype, device=x.device)


def output_format(branches: Sequence[Branch]) -> torch.memory_format:
    """The memory format of the output."""
    return _format_of(output_shape(branches[0]), _output_strides(branches))


def _output_strides(branches: Sequence[Branch]) -> Strides:
    shape = output_shape(branches[0])
    each = [_addend_strides(branch, shape) for branch in branches]
    usual = any(each[0] == _strides(shape, chosen) for chosen in (torch.channels_last, torch.contiguous_format))
    return each[0] if usual and each[-1] == each[0] else _strides_of_sum(shape, each)


def _strides_of_sum(shape: Shape, each: Sequence[Strides]) -> Strides:
    """The strides that PyTorch gives to the sum; to ask it takes long."""
    layouts = [torch.empty_strided(shape, strides, device="meta") for strides in each]
    layout = layouts[0] if len(layouts) == 1 else layouts[0] + layouts[1]
    if not torch.ops.aten.is_non_overlapping_and_dense(layout):
        layout = torch.empty_like(layout)
    return layout.stride()


def _addend_strides(branch: Branch, shape: Shape) -> Strides:
    """The strides that the unfused operations give to the addend."""
    x = branch.x
    if is_identity(branch):
        return x.stride()
    if isinstance(branch, ZeroPad) and x.shape[1] == branch.out_channels:  # padding by nothing copies
        meta = torch.empty_strided(x.shape, x.stride(), device="meta")
        return torch.empty_like(reference.subsample(meta, branch.stride)).stride()
    formats = [memory_format(x)]
    if isinstance(branch, ZeroPad) and branch.stride > 1:
        n, c, h, w = x.stride()
        formats = [_format_of((*x.shape[:2], *shape[2:]), (n, c, h * branch.stride, w * branch.stride))]
    if isinstance(branch, Projection):
        formats.append(memory_format(branch.weight))
    return _strides(shape, torch.channels_last if torch.channels_last in formats else torch.contiguous_format)


def _strides(shape: Shape, chosen: torch.memory_format) -> Strides:
    _, c, h, w = shape
    return (c * h * w, 1, w * c, c) if chosen == torch.channels_last else (c * h * w, h * w, w, 1)


def readable(dy: Tensor, output: torch.memory_format) -> Tensor:
    """dy, or where the output has its channels side by side and dy has not, a copy that has.

    Such a dy comes from the average pool behind a network's last block. The kernels read 16 bytes at once: element by
    element, it would cost several times the copy's two passes.
    """
    return dy.contiguous(memory_format=torch.channels_last) if is_copied(dy, output) else dy


def is_copied(dy: Tensor, output: torch.memory_format) -> bool:
    """Whether `readable` copies."""
    return dy.stride(1) != 1 and dy.shape[1] > 1 and output == torch.channels_last


def empty_statistics(branch: Branch) -> Statistics:
    """Memory for the statistics that backward needs."""
    if branch.norm is None:
        return Statistics()
    channels, inputs, dtype = branch.out_channels, branch.x.shape[1], accumulation_dtype(branch.x)
    vector = branch.x.new_empty(channels, dtype=dtype)
    shared = Statistics()
    if shares_statistics(branch):
        own_mean = torch.empty_like(vector) if isinstance(branch, Projection) else None
        shared = Statistics(mean=torch.empty_like(vector), own_mean=own_mean)
    if not takes_moments(branch):
        return shared._replace(mean=torch.empty_like(vector), var=vector)
    return shared._replace(var=vector, mu=vector.new_empty(inputs), cov=vector.new_empty(inputs, inputs))


def empty_gradients(branch: Branch, needs: Needs, dy: Tensor) -> Gradients:
    """Memory for the gradients that are asked for: dx in x's memory format, the others like their tensors."""
    channels, (x, weight, *_) = branch.out_channels, operands_of(branch)
    dtype = vector_dtype(branch)
    dx = None
    if needs.x:
        dx = torch.empty(x.shape, dtype=dy.dtype, device=dy.device, memory_format=memory_format(x))
    return Gradients(
        x=dx,
        weight=torch.empty_like(weight) if needs.weight and weight is not None else None,
        bias=dy.new_empty(channels) if needs.bias else None,
        gamma=dy.new_empty(channels, dtype=dtype) if needs.gamma else None,
        beta=dy.new_empty(channels, dtype=dtype) if needs.beta else None,
    )


def vector_dtype(branch: Branch) -> torch.dtype | None:
    """The dtype that gamma and beta share; None where there is neither."""
    _, _, _, gamma, beta = operands_of(branch)
    return gamma.dtype if gamma is not None else None if beta is None else beta.dtype
