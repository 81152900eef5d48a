"""The residual tail as PyTorch operators, so that compilers, exporters and dispatch modes see one operation.

======================  ==============================================================================================
residual_tail           forward; running statistics are read at most
residual_tail_tracked   the same, and the running statistics of training norms are updated in place
residual_tail_backward  the gradients that are asked for, as a list
======================  ==============================================================================================

Forward operators return y and then mean, var, mu and cov of main and of shortcut (`fused_resnet.tail.Statistics`):
empty tensors where there is nothing, and everywhere unless ``keep`` is set. A strategy of "auto" is settled when the
operator is called or traced. Arguments are those of branches that `fused_resnet.checks` has nothing against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import implementations
from ._autocast import autocast_off, under_autocast
from .autograd import differentiable, differentiable_once
from .branches import Activation, Branch
from .signature import BackwardArguments, ForwardArguments, by_branch, flat, forward_arguments, forward_branch, schema
from .tail import operands_of

_AUTOCAST_KEYS = ("AutocastCPU", "AutocastCUDA", "AutocastMPS", "AutocastXPU")


def residual_tail(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    """The output for checked branches."""
    branches = [main] if shortcut is None else [main, shortcut]
    operator = _TRACKED if any(map(_is_tracked, branches)) else _PLAIN
    y: Tensor = operator(*flat([forward_arguments(branch) for branch in branches]), activation == "relu", False)[0]
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
        *values, relu, keep = arguments
        each = by_branch(ForwardArguments, values)
        cast = [forward_arguments(under_autocast(forward_branch(own)), own.strategy) for own in each]
        with autocast_off(values[0]):
            return operator(*flat(cast), relu, keep)

    return call


def _backward_under_autocast(operator: Any) -> Callable[..., Any]:
    def call(dy: Tensor, *arguments: Any) -> Any:
        with autocast_off(dy):
            return operator(dy, *arguments)

    return call


_library: Any = torch.library.Library("fused_resnet", "DEF")  # type: ignore[no-untyped-call]


def _define(signature: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = signature.partition("(")[0]
    _library.define(signature)
    _library.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fused_resnet::{name}", fake, lib=_library)
    return getattr(torch.ops.fused_resnet, name).default


def _wrap(operator: Any, autograd: Callable[..., Any], autocast: Callable[..., Any]) -> None:
    name = operator._schema.name
    _library.impl(name, autograd, "Autograd", with_keyset=True)
    for key in _AUTOCAST_KEYS:
        _library.impl(name, autocast, key)


def _define_forward(name: str, *, writes: bool) -> Any:
    arguments, results = schema(ForwardArguments, writes=writes), ", ".join(["Tensor"] * implementations.RESULTS)
    signature = f"{name}({arguments}, bool relu, bool keep) -> ({results})"
    operator = _define(signature, implementations.forward, implementations.fake_forward)
    _wrap(operator, differentiable(operator), _forward_under_autocast(operator))
    return operator


def _define_backward() -> None:
    signature = f"residual_tail_backward(Tensor dy, Tensor? y, {schema(BackwardArguments)}) -> Tensor[]"
    operator = _define(signature, implementations.backward, implementations.fake_backward)
    _wrap(operator, differentiable_once(operator), _backward_under_autocast(operator))


_PLAIN = _define_forward("residual_tail", writes=False)
_TRACKED = _define_forward("residual_tail_tracked", writes=True)
_define_backward()
