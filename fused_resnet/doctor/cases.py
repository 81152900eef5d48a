"""The tails of the self-test: together they launch every kernel, in every way that products are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..operation.branches import Branch, Direct, Norm, Projection, ZeroPad
from ..operation.synchronisation import ALONE
from .accuracy import FLOORS

MATHS = ("float32", "tf32", "bfloat16", "float16")
# Operands of products are rounded to 11 bits twice, those of forward and those of backward. Whether PyTorch does so,
# too, is its own choice from case to case.
_TF32_FLOOR = 2.0**-10

_CHANNELS, _INPUTS, _IMAGES, _HEIGHT, _WIDTH = 40, 24, 2, 9, 8

T = TypeVar("T", Branch, Norm)


@dataclass(frozen=True)
class Case:
    """One tail.

    Attributes:
        math: one of MATHS, how products are computed.
        products: how many branches are projections.
        mode: "training" or "evaluation".
        shared: statistics are those of several processes (of which this is the only one).
    """

    math: str
    products: int
    mode: str
    shared: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations and weights."""
        dtype: torch.dtype = getattr(torch, self.math.replace("tf32", "float32"))
        return dtype

    @property
    def floor(self) -> float:
        """The floor of the accuracy rule."""
        return _TF32_FLOOR if self.math == "tf32" else FLOORS[self.dtype]

    def __str__(self) -> str:
        products = "1 product" if self.products == 1 else f"{self.products} products"
        return f"{self.math}, {products}, {self.mode}" + (", shared" if self.shared else "")


def cases(maths: tuple[str, ...] = MATHS) -> Iterator[Case]:
    """All of them."""
    for name in maths:
        for products in (0, 1, 2):
            for mode in ("training", "evaluation"):
                yield Case(name, products, mode)
                if mode != "evaluation":
                    yield Case(name, products, mode, shared=True)


def make(case: Case, device: torch.device) -> tuple[Branch, Branch, Tensor]:
    """Both branches and the gradient of their output: random numbers, each time the same."""
    random = torch.Generator().manual_seed(0)
    strided = (_IMAGES, _INPUTS, 2 * _HEIGHT, 2 * _WIDTH)
    # In one layout threads copy several channels at once, in the other one element.
    layout = torch.channels_last if case.products == 2 else torch.contiguous_format

    def activations(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=random, dtype=torch.float32) + 0.5
        return drawn.contiguous(memory_format=layout).to(case.dtype)

    def weight() -> Tensor:
        drawn = torch.randn(_CHANNELS, _INPUTS, 1, 1, generator=random, dtype=torch.float32)
        return drawn.div(math.sqrt(_INPUTS)).to(case.dtype)

    def norm() -> Norm:
        gamma, beta, mean, var = torch.rand(4, _CHANNELS, generator=random, dtype=torch.float32)
        training, group = case.mode != "evaluation", ALONE if case.shared else None
        tracked = mean, var + 0.5, torch.tensor(2)
        return Norm(gamma + 0.5, beta, *tracked, momentum=0.5, training=training, process_group=group)

    sizes = (_HEIGHT, _WIDTH)
    main: Branch
    shortcut: Branch
    if case.products == 0:
        main = Direct(activations(_IMAGES, _CHANNELS, *sizes), norm())
        shortcut = ZeroPad(activations(*strided), _CHANNELS, stride=2)
    else:
        main = Projection(activations(_IMAGES, _INPUTS, *sizes), weight(), norm())
        shortcut = Direct(activations(_IMAGES, _CHANNELS, *sizes))
    if case.products == 2:
        shortcut = Projection(activations(*strided), weight(), norm(), stride=2)
    dy = activations(_IMAGES, _CHANNELS, *sizes)
    return _converted(main, lambda t: t.to(device)), _converted(shortcut, lambda t: t.to(device)), dy.to(device)


def copied(branch: Branch, dtype: torch.dtype | None) -> Branch:
    """The branch with tensors of its own, in another dtype if one is given; gradients flow to all that can have any."""

    def copy(t: Tensor) -> Tensor:
        return t.to(dtype if t.is_floating_point() else None, copy=True)

    own = _converted(branch, copy)
    for holder in (own, own.norm):
        for name, value in () if holder is None else vars(holder).items():
            if isinstance(value, Tensor) and value.is_floating_point() and not name.startswith("running"):
                value.requires_grad_()
    return own


def _converted(holder: T, convert: Callable[[Tensor], Tensor]) -> T:
    """A copy in which each tensor has been converted."""
    changed: dict[str, Any] = {}
    for name, value in vars(holder).items():
        if isinstance(value, Tensor):
            changed[name] = convert(value)
        elif isinstance(value, Norm):
            changed[name] = _converted(value, convert)
    return replace(holder, **changed)
