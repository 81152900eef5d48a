"""The ways to a tail's output: the fused operation, PyTorch's others, and cuDNN's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_resnet.strategy import StrategyChoice, use_strategy

from ..tails import Mode, Tail

Forward = Callable[[Tensor, Tensor], Tensor]


# What joins the timed ways, turn by turn, and the seconds that must be left for a tail in a mode to be begun.
TURNS = (("anything", 0.0), ("torch.compile", 45.0), ("torch.compile's max-autotune", 120.0))


class ImpossibleError(Exception):
    """A way that there is not for a tail, a mode or a machine; its message says why."""


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        explained: for people.
        prepare: from a tail and a mode to what computes; whatever can be done ahead of time is done here.
        contiguous: whether its tensors are; all others' are channels_last.
        turn: when it is timed; what has to be compiled comes later, for as long as there is time (`TURNS`).
        ours: whether it is this package's, so that its failure is one of the run.
    """

    explained: str
    prepare: Callable[[Tail, Mode], Forward]
    contiguous: bool = False
    turn: int = 0
    ours: bool = False


def _forced(strategy: StrategyChoice, tail: Tail, _: Mode) -> Forward:
    if not tail.shape.projections:
        raise ImpossibleError("a strategy makes no difference without a projection")

    def forward(x: Tensor, before: Tensor) -> Tensor:
        with use_strategy(strategy):
            return tail.fused(x, before)

    return forward


def _compiled(mode_of_compiler: str, tail: Tail, _: Mode) -> Forward:
    # The sizes of a network do not change.
    compiled: Forward = torch.compile(tail, dynamic=False, mode=mode_of_compiler)
    return compiled


def _check_cudnn(tail: Tail, mode: Mode) -> None:
    if mode.training or mode.backward:
        raise ImpossibleError("a norm can be folded into its convolution in evaluation alone, and without backward")
    if tail.conv is None:
        raise ImpossibleError("no projection ends the main branch, whose convolution is not part of the tail")
    if not tail.conv.weight.is_cuda:
        raise ImpossibleError("cuDNN needs a GPU")


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (C, K, 1, 1) and bias (C) of the one convolution that computes ``norm(conv(x))`` in evaluation.

    Inference engines do so, once, ahead of time. It rounds the weights: its error is larger than the unfused one.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = (conv.weight.detach().double() * scale[:, None, None, None]).to(conv.weight.dtype)
    bias = norm.bias.detach().double() - norm.running_mean.double() * scale
    return weight.contiguous(memory_format=torch.channels_last), bias.to(conv.weight.dtype)


def _addend(tail: Tail) -> Callable[[Tensor], Tensor]:
    """What is added: a shortcut's projection is a convolution of its own, its norm folded into it."""
    if tail.shortcut_conv is None or tail.shortcut_norm is None:
        return lambda before: before
    weight, bias = fold(tail.shortcut_conv, tail.shortcut_norm)
    return partial(F.conv2d, weight=weight, bias=bias, stride=tail.shape.stride)


def _cudnn_fused(tail: Tail, mode: Mode) -> Forward:
    _check_cudnn(tail, mode)
    assert tail.conv is not None
    weight, bias = fold(tail.conv, tail.norm)
    addend = _addend(tail)

    def forward(x: Tensor, before: Tensor) -> Tensor:
        y: Tensor = torch.cudnn_convolution_add_relu(x, weight, addend(before), 1.0, bias, (1, 1), (0, 0), (1, 1), 1)
        return y

    return forward


FUSED, EAGER = "fused", "eager"
WAYS = {
    FUSED: Way("the fused operation", lambda tail, _: tail.fused, ours=True),
    EAGER: Way("PyTorch's operations one by one, channels_last", lambda tail, _: tail),
    "eager-contiguous": Way("the same, contiguous", lambda tail, _: tail, contiguous=True),
    "compile": Way("torch.compile", partial(_compiled, "default"), turn=1),
    # CUDA graphs, which plain max-autotune adds, would copy every call's inputs into their own.
    "compile-max-autotune": Way(
        "torch.compile, max-autotune-no-cudagraphs", partial(_compiled, "max-autotune-no-cudagraphs"), turn=2
    ),
    "cudnn-fused": Way("cudnn_convolution_add_relu, the norm folded into the weight", _cudnn_fused),
    "moments": Way("fused, by the strategy moments", partial(_forced, "moments"), ours=True),
    "library": Way("fused behind PyTorch's convolutions", partial(_forced, "library"), ours=True),
}
PEERS = tuple(name for name in WAYS if name != FUSED)
