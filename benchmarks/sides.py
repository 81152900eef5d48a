"""The unfused model beside the fused one, and anything that is known of both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

import fused_resnet

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Sides(Generic[T]):
    """One value for the unfused model and one for the fused."""

    unfused: T
    fused: T

    def map(self, function: Callable[[T], R]) -> Sides[R]:
        """The function's results, the unfused side's first."""
        return Sides(function(self.unfused), function(self.fused))


@dataclass(frozen=True)
class Models(Sides[nn.Module]):
    """A model with the standard operations and its fused copy, with the names of the tails fused and refused."""

    fused_tails: list[str]
    refused_tails: list[str]


def beside_fused(model: nn.Module) -> Models:
    """A standard model beside a copy that `fused_resnet.fuse` has fused."""
    fused = copy.deepcopy(model)
    report = fused_resnet.fuse(fused)
    return Models(model, fused, list(report.fused), list(report.refused))
