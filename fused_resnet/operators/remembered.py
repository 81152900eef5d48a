"""Tails that the kernels have computed before: what was decided for them is remembered, and a call is one launch.

A call is remembered by all that anything is decided by: sizes, strides, dtypes, devices and alignments of its tensors,
its settings, whether gradients will be asked for, what `use_backend` and `use_strategy` have chosen. The compiled
modules hold the calls (``csrc/bindings/remembered.h``), and the first of each kind is described here. Wherever somebody
looks on (a compiler, a mode, a tracer, a subclass of Tensor), they leave the call to the operators of
`fused_resnet.operators.ops`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from .. import backend, strategy
from ..backends.kernels import availability, loading
from ..backends.kernels.branch_arguments import kept
from ..backends.kernels.computation import (
    KernelComputation,
    backward_call,
    forward_call,
    forward_refusal,
    is_empty,
    readable_gradient,
    refusal,
)
from ..operation.branches import Activation, Branch, Direct, Norm, Projection, ZeroPad, with_tensors
from ..operation.computation import Needs, Tail, operands_of, shares_statistics
from ..operation.layouts import empty_gradients, empty_output
from ..operation.relu_mask import empty_mask
from .autograd import asked, gradients
from .signature import INPUTS, SAVED, backward_branch, forward_arguments, saved_arguments

_OPERANDS = len(Needs._fields)
_LAUNCHED = 4  # the first fields of `Statistics`, which a launch leaves


def run(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor | None:
    """The output, where such a call is remembered; None where it is not, or where something is wrong with it."""
    if torch.compiler.is_dynamo_compiling() or (activation is not None and activation != "relu"):
        return None
    try:
        module = _module_for(main)
    except AttributeError:  # not a branch, or not of tensors: for the checks to say
        return None
    y: Tensor | None = None if module is None else module.run_remembered(main, shortcut, activation is not None)
    return y


def learn(main: Branch, shortcut: Branch | None, activation: Activation) -> None:
    """Has the call remembered, where the kernels compute it in one launch; branches are checked."""
    module = None if torch.compiler.is_dynamo_compiling() else _module_for(main)
    if module is None:
        return
    if module.is_unknown(main=main, shortcut=shortcut, relu=activation is not None):
        branches = [main] if shortcut is None else [main, shortcut]
        described = _describe(module, branches, activation is not None)
        if described is not None:
            module.remember(main=main, shortcut=shortcut, relu=activation is not None, **described)


def learn_library(main: Branch, shortcut: Branch | None, activation: Activation, by_library: Sequence[bool]) -> None:
    """Has it remembered which projections of such a call PyTorch's own convolutions compute."""
    module = None if torch.compiler.is_dynamo_compiling() else _module_for(main)
    if module is not None and module.is_unknown(main=main, shortcut=shortcut, relu=activation is not None):
        of_main, of_shortcut, *_ = *by_library, False
        module.remember_library(
            main=main, shortcut=shortcut, relu=activation is not None, of_main=of_main, of_shortcut=of_shortcut
        )


def _describe(module: Any, branches: Sequence[Branch], relu: bool) -> dict[str, Any] | None:
    """A forward as the module remembers it; None where it is not one launch."""
    computation = _kernels_of(module, branches[0].x.device)
    if computation is None:
        return None
    keep = any(t is not None and t.requires_grad for b in branches for t in operands_of(b)) and torch.is_grad_enabled()
    # Tensors that are objects of their own: two may be one now, and not the next time.
    tail = Tail(tuple(with_tensors(branch, Tensor.detach) for branch in branches), relu)
    if any(map(shares_statistics, tail.branches)) or is_empty(tail) or forward_refusal(tail) is not None:
        return None
    y = empty_output(tail.branches)
    mask = empty_mask(tail.branches) if keep and computation.packs_mask(tail) else None
    call = forward_call(module, tail, y, keep, mask)
    statistics = [kept(branch, call.statistics(i)) for i, branch in enumerate(tail.branches)]
    each = [*map(forward_arguments, tail.branches)]
    saved = saved_arguments(each, statistics, relu)
    return {
        "call": call,
        "given": [*_both([own[:INPUTS] for own in each]), y, *_both([own[:_LAUNCHED] for own in statistics]), mask],
        "saved": [*(t for own in saved for t in own[:SAVED]), mask if mask is not None else y if relu else None],
        "settings": [own[SAVED:] for own in saved],
    }


def _both(each: Sequence[Sequence[Any]]) -> list[Any]:
    """The values of main and shortcut in one list; Nones take the place of a missing shortcut."""
    main, shortcut, *_ = *each, [None] * len(each[0])
    return [*main, *shortcut]


def _kernels_of(module: Any, device: torch.device) -> KernelComputation | None:
    """What computes a device's tails now, where it is this module."""
    computation = backend.computation(device)
    return computation if isinstance(computation, KernelComputation) and computation.module is module else None


def _needs(wanted: Sequence[bool], branches: int) -> list[Needs]:
    return [Needs(*wanted[i * _OPERANDS : (i + 1) * _OPERANDS]) for i in range(branches)]


def _describe_backward(
    module: Any, settings: Sequence[Any], saved: Sequence[Tensor | None], dy: Tensor, wanted: Sequence[bool]
) -> tuple[Any, Tensor, list[Tensor | None]] | None:
    """The call that writes the gradients, the dy that it reads, and the gradients; None where it is not one launch."""
    of = asked(saved, settings, _needs(wanted, len(settings)))
    if _kernels_of(module, dy.device) is None or not any(map(any, of.computed)):
        return None
    # dy itself is a gradient only where it has the layout that the gradient is to have.
    if any(
        passes and not dy.is_contiguous(memory_format=own.x_format)
        for own, passes in zip(of.each, of.passed, strict=True)
    ):
        return None
    each = [backward_branch(own._replace(needs=needs), dy) for own, needs in zip(of.each, of.computed, strict=True)]
    branches = tuple(branch for branch, _, _ in each)
    tail = Tail(branches, saved[-1] is not None)
    if refusal(tail) is not None:
        return None
    into = [empty_gradients(branch, needs, dy) for branch, _, needs in each]
    read = readable_gradient(tail, dy)
    call = backward_call(module, tail, read, saved[-1], [statistics for _, statistics, _ in each], into)
    found = [own._replace(x=dy) if passes else own for own, passes in zip(into, of.passed, strict=True)]
    return call, read, _both(found)


def _call_backward(
    settings: Sequence[Any], saved: Sequence[Tensor | None], dy: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    return _both(gradients(saved, settings, dy, _needs(wanted, len(settings))))


# The module for each device (-1: no GPU) by the current choices. It is looked for at a call: that initialises CUDA.
_modules: dict[int, Any] = {}
_connected: list[Any] = []


def _module_for(main: Branch) -> Any:
    """The compiled module that computes such tails, None where PyTorch does."""
    gpu = main.x.get_device()
    try:
        return _modules[gpu]
    except KeyError:
        return _modules.setdefault(gpu, _module_on(gpu))


def _module_on(gpu: int) -> Any:
    chosen = backend.choice.value
    if chosen == "emulated":
        module: Any = loading.load("_emulated")[0]
    elif chosen != "reference" and gpu >= 0 and availability.missing_on(gpu) is None:
        module = loading.load("_C")[0]
    else:
        return None
    if module not in _connected:
        module.connect(
            direct=Direct,
            projection=Projection,
            zero_pad=ZeroPad,
            norm=Norm,
            describe_backward=functools.partial(_describe_backward, module),
            call_backward=_call_backward,
        )
        module.set_choices(_choices())
        _connected.append(module)
    return module


def _choices() -> int:
    """What `use_backend` and `use_strategy` have chosen, as a number."""
    backends, strategies = get_args(backend.BackendChoice), get_args(strategy.StrategyChoice)
    return backends.index(backend.choice.value) * len(strategies) + strategies.index(strategy.choice.value)


def _on_change() -> None:
    _modules.clear()
    for module in _connected:
        module.set_choices(_choices())


backend.choice.on_change = strategy.choice.on_change = _on_change
