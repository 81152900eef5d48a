"""The residual tail as PyTorch operators, so that compilers, exporters and dispatch modes see one operation.

=============================  =======================================================================================
residual_tail                  y; running statistics are read at most
residual_tail_forward          y, the relu's mask and the statistics: what runs where gradients will be asked for
residual_tail_tracked,         the same two, which update the running statistics of training norms in place
residual_tail_forward_tracked
residual_tail_backward         the gradients that are asked for, as a list
=============================  =======================================================================================

Arguments are those of branches that `fused_resnet.operation.checks` has nothing against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..operation.autocast import autocast_off, under_autocast
from ..operation.branches import Activation, Branch
from ..operation.computation import operands_of
from . import implementations
from .autograd import differentiable, differentiable_once
from .signature import (
    REVISION,
    BackwardArguments,
    ForwardArguments,
    by_branch,
    flat,
    forward_arguments,
    forward_branch,
    schema,
    split,
)

_AUTOCAST_KEYS = ("AutocastCPU", "AutocastCUDA", "AutocastMPS", "AutocastXPU")


def residual_tail(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    """The output for checked branches."""
    branches = [main] if shortcut is None else [main, shortcut]
    operator = _TRACKED if any(map(_is_tracked, branches)) else _PLAIN
    y: Tensor = operator(*flat([*map(forward_arguments, branches)]), activation == "relu", REVISION)
    return y


def needs_backward(branches: Sequence[Branch]) -> bool:
    """Whether gradients will be asked for."""
    operands = (tensor for branch in branches for tensor in operands_of(branch))
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)


def _is_tracked(branch: Branch) -> bool:
    norm = branch.norm
    return norm is not None and norm.training and not (norm.running_mean is None and norm.num_batches_tracked is None)


def _forward_under_autocast(operator: Any) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        values, relu = split(arguments)
        each = by_branch(ForwardArguments, values)
        cast = [forward_arguments(under_autocast(forward_branch(own))) for own in each]
        with autocast_off(values[0]):
            return operator(*flat(cast), relu, REVISION)

    return call


def _backward_under_autocast(operator: Any) -> Callable[..., Any]:
    def call(dy: Tensor, *arguments: Any) -> Any:
        with autocast_off(dy):
            return operator(dy, *arguments)

    return call


_library: Any = torch.library.Library("fused_resnet", "DEF")


def _define(signature: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = signature.partition("(")[0]
    _library.define(signature)
    _library.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fused_resnet::{name}", fake, lib=_library)
    return getattr(torch.ops.fused_resnet, name).default


def _wrap(name: str, autograd: Callable[..., Any], autocast: Callable[..., Any]) -> None:
    _library.impl(name, autograd, "Autograd", with_keyset=True)
    for key in _AUTOCAST_KEYS:
        _library.impl(name, autocast, key)


def _define_forward(suffix: str = "", *, writes: bool = False) -> Any:
    arguments = f"{schema(ForwardArguments, writes=writes)}, bool relu, int revision=1, bool packs=False"
    results = ", ".join(["Tensor"] * implementations.RESULTS)
    name, signature = f"residual_tail{suffix}", f"residual_tail_forward{suffix}({arguments}) -> ({results})"
    forward = _define(signature, implementations.forward, implementations.fake_forward)
    operator = _define(f"{name}({arguments}) -> Tensor", implementations.output, implementations.fake_output)
    _wrap(name, differentiable(operator, forward), _forward_under_autocast(operator))
    return operator


def _define_backward() -> None:
    name = "residual_tail_backward"
    signature = f"{name}(Tensor dy, Tensor? mask, {schema(BackwardArguments)}) -> Tensor[]"
    operator = _define(signature, implementations.backward, implementations.fake_backward)
    _wrap(name, differentiable_once(operator), _backward_under_autocast(operator))


_PLAIN = _define_forward()
_TRACKED = _define_forward("_tracked", writes=True)
_define_backward()
