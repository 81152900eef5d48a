"""A tail's launches, whole and phase by phase, as calls that can be timed, and what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fused_resnet.backends.kernels import loading
from fused_resnet.conversion.modules import branch_of
from fused_resnet.operation.branches import Branch, Direct
from fused_resnet.operation.computation import Gradients

from ..launches import BACKWARD, FORWARD, Launches
from ..tails import Tail
from .columns import CONVOLUTION, LIBRARY

Calls = dict[str, Callable[[], object]]
# A branch's parameters by the modules of `Tail`, in the order of `Gradients`.
_MAIN = ("x", "conv.weight", "conv.bias", "norm.weight", "norm.bias")
_SHORTCUT = ("before", "shortcut_conv.weight", "shortcut_conv.bias", "shortcut_norm.weight", "shortcut_norm.bias")


@dataclass(frozen=True)
class Way:
    """One way of computing a tail.

    Attributes:
        calls: by the names of the columns.
        results: what it has computed, by name.
        bytes: that its launches have to move, by direction; of eager operations nothing is said.
    """

    calls: Calls
    results: Mapping[str, Tensor]
    bytes: Mapping[str, int]


@dataclass(frozen=True)
class Inputs:
    """The inputs of both branches, and the output's gradient."""

    x: Tensor
    before: Tensor
    dy: Tensor


def eager_way(tail: Tail, inputs: Inputs) -> Way:
    """PyTorch's operations; backward can be repeated."""
    x, before = (t.detach().requires_grad_() for t in (inputs.x, inputs.before))
    y = tail(x, before)
    sources = {"x": x, "before": before, **dict(tail.named_parameters())}

    def backward() -> Sequence[Tensor]:
        return torch.autograd.grad(y, list(sources.values()), inputs.dy, retain_graph=True)

    gradients = dict(zip(sources, backward(), strict=True))
    calls: Calls = {FORWARD: lambda: tail(x, before), BACKWARD: backward}
    return Way(calls, {"output": y.detach(), **gradients}, {})


def kernel_way(name: str, tail: Tail, inputs: Inputs, backend: str) -> Way:
    """By the launches of a backend's module; `name` is that of the row."""
    module = loading.load("_C" if backend == "cuda" else "_emulated")[0]
    assert module is not None
    apart = name == LIBRARY
    branches = _behind_convolution(tail, inputs) if apart else list(tail.branches(inputs.x, inputs.before))
    launches = Launches(module, branches, inputs.dy)
    launches.forward.run()
    launches.run_backward()
    calls: Calls = {FORWARD: launches.forward.run, BACKWARD: launches.run_backward, **launches.phases}
    if apart:
        calls |= _convolution(tail, inputs)
    return Way(calls, {"output": launches.y.clone(), **_named(launches.gradients, apart)}, launches.bytes)


def _behind_convolution(tail: Tail, inputs: Inputs) -> list[Branch]:
    """The tail of what the main branch's convolution has written."""
    assert tail.conv is not None
    with torch.no_grad():
        p = tail.conv(inputs.x)
    main, shortcut = branch_of(p, None, tail.norm), tail.branches(inputs.x, inputs.before)[1]
    assert isinstance(main, Direct)
    return [main, shortcut]


def _convolution(tail: Tail, inputs: Inputs) -> Calls:
    conv: Any = tail.conv
    x = inputs.x.detach().requires_grad_()
    p = conv(x)
    dp = torch.empty_like(p).copy_(inputs.dy)

    def backward() -> object:
        return torch.autograd.grad(p, [x, conv.weight], dp, retain_graph=True)

    return {CONVOLUTION[FORWARD]: lambda: conv(x), CONVOLUTION[BACKWARD]: backward}


def _named(into: Sequence[Gradients], apart: bool) -> dict[str, Tensor]:
    """Gradients as eager operations have them; of what a convolution apart has written there is none."""
    named = {}
    for names, gradients in zip((_MAIN, _SHORTCUT), into, strict=True):
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None and not (apart and name == "x"):
                named[name] = gradient.clone()
    return named
