"""How long each way of computing a tail takes on a GPU, and the fastest.

A launch's time is a sum over its phases: bytes over the rate at which a phase moves them, operations over the rate at
which it multiplies, and a fixed time. The amounts are counted here, the rates are measured ones
(``calibration.json``, written by ``python -m benchmarks calibrate``), and go to another GPU by its clocks,
multiprocessors and memory. Convolutions and plain operations of PyTorch are modelled in the same way.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..operation.relu_mask import mask_bytes

Strategy: TypeAlias = Literal["moments", "library"]

Source: TypeAlias = Literal["direct", "projection", "zero_pad"]
Statistics: TypeAlias = Literal["none", "running", "training"]
# How a branch is computed: a projection by a strategy, any other as it is.
Way: TypeAlias = Strategy | None
# Amounts by what they are of: bytes, operations, launches.
Amounts: TypeAlias = Mapping[str, float]

CALIBRATION = Path(__file__).with_name("calibration.json")
# Columns of a tile, and of one of x^T x with few channels (csrc/partition.h, csrc/tile.cuh).
_TILE, _NARROW_TILE = 128, 64
# Operations on activations in the time of one in half precision, by how products are computed. Not measured: from the
# GPUs' data sheets; tf32 takes three products for one in x^T x (csrc/products.cuh), but for simplicity counts alike.
_SLOWER = {"half": 1.0, "tf32": 2.0, "float32": 15.0}
# Products of rounded numbers for one with a float, on matrices of channels (csrc/exact_products.cuh).
_PARTS = {"half": 3, "tf32": 2, "float32": 1}


@dataclass(frozen=True)
class BranchProblem:
    """A branch: its source, input channels and stride, and which statistics its norm goes by."""

    source: Source
    in_channels: int
    stride: int
    norm: Statistics


@dataclass(frozen=True)
class TailProblem:
    """A tail: M rows (N * Ho * Wo) of C channels, and what is asked for.

    Attributes:
        math: how products are computed: "half", "tf32" or "float32".
        backward: whether gradients will be asked for.
    """

    rows: int
    channels: int
    branches: tuple[BranchProblem, ...]
    element_size: int
    math: str
    backward: bool


@dataclass(frozen=True)
class Machine:
    """A GPU, by what rates follow from: its multiprocessors, their clock and the memory's bandwidth."""

    multiprocessors: int
    clock_hz: float
    memory_bytes_per_s: float


def kernel_forward(problem: TailProblem, ways: tuple[Way, ...]) -> Amounts:
    """What the launch does that writes y; ``"library"`` stands for a branch that a convolution has written."""
    of = _Sizes(problem)
    amounts = _amounts({"launch": 1, "apply bytes": of.y + of.mask * problem.backward})
    products = sum(_is_product(*each) for each in zip(problem.branches, ways, strict=True))
    for branch, way in zip(problem.branches, ways, strict=True):
        if branch.norm == "training" and way == "moments":
            amounts["gram bytes"] += of.x(branch)
            amounts["gram operations"] += of.slower * problem.rows * _tiled(branch.in_channels) * 2 * branch.in_channels
            amounts["finish operations"] += of.matrices(branch)
        elif branch.norm == "training":
            amounts["columns bytes"] += of.y
        is_product = _is_product(branch, way)
        amounts["apply bytes"] += of.x(branch) if is_product or branch.source == "zero_pad" else of.y
        if is_product:
            amounts["apply operations" if products == 1 else "apply operations of two"] += of.product(branch)
    return amounts


def kernel_backward(problem: TailProblem, ways: tuple[Way, ...]) -> Amounts:
    """What the launch does that writes all gradients; nothing of a convolution's."""
    of = _Sizes(problem)
    writes = any(_needs_gradient_of_sum(*each) for each in zip(problem.branches, ways, strict=True))
    amounts = _amounts({"launch": 1, "reduce bytes": of.y + of.mask + of.y * writes})
    incoming = of.y if writes else of.y + of.mask  # what the last phase reads for g
    for branch, way in zip(problem.branches, ways, strict=True):
        product = of.product(branch)
        if branch.source == "zero_pad":
            amounts["apply bytes"] += of.x(branch) * incoming / of.y + of.dx(branch)
        elif branch.source == "direct" or way == "library":
            amounts["reduce bytes"] += of.y if branch.norm != "none" else 0
            amounts["apply bytes"] += incoming + 2 * of.y if branch.norm != "none" else 0
        else:
            amounts["reduce bytes"] += of.x(branch)
            amounts["reduce operations"] += product
            amounts["apply bytes"] += incoming + of.x(branch) + of.dx(branch)
            amounts["apply operations"] += product
            if branch.norm == "training":
                amounts["finish operations"] += 1.5 * of.matrices(branch)  # W Cov, and the half of Q
                amounts["apply operations"] += 4 * of.slower * problem.rows * branch.in_channels**2
    return amounts


def convolution(problem: TailProblem, branch: BranchProblem, backward: bool) -> Amounts:
    """What PyTorch's own 1x1 convolution does in one direction."""
    of, times = _Sizes(problem), 2 if backward else 1
    return {
        "convolutions": times,
        "convolution bytes": times * (of.y + of.x(branch)) + (of.dx(branch) - of.x(branch) if backward else 0),
        "convolution operations": times * of.product(branch),
    }


def plain(problem: TailProblem, backward: bool) -> Amounts:
    """What PyTorch's own operations do in one direction: convolutions, norms, the addition and the relu."""
    of = _Sizes(problem)
    passes = 3 if backward else 5  # of the addition and the relu
    amounts = _amounts({"operations": 1 if backward else 2, "elementwise bytes": passes * of.y})
    for branch in problem.branches:
        own = convolution(problem, branch, backward) if branch.source == "projection" else {}
        for name, amount in own.items():
            amounts[name] += amount
        if branch.norm != "none":
            amounts["operations"] += 1
            amounts["elementwise bytes"] += (5 if backward else 3 if branch.norm == "training" else 2) * of.y
    return amounts


class Rates:
    """Seconds for amounts: what was measured on one GPU, carried over to a machine."""

    def __init__(self, calibration: Mapping[str, Any], machine: Machine | None = None) -> None:
        self._seconds: Mapping[str, Mapping[str, float]] = calibration["seconds"]
        self.measured_on = Machine(**calibration["machine"])
        machine = machine or self.measured_on
        arithmetic = machine.multiprocessors * machine.clock_hz
        self._slower_operations = self.measured_on.multiprocessors * self.measured_on.clock_hz / arithmetic
        self._slower_bytes = self.measured_on.memory_bytes_per_s / machine.memory_bytes_per_s

    def seconds(self, launch: str, amounts: Amounts) -> float:
        """How long a launch takes; its name is "kernel forward", "plain backward" and so on."""
        rates = self._seconds[launch]
        return sum(amount * rates[name] * self._slower(name) for name, amount in amounts.items())

    def _slower(self, name: str) -> float:
        if name.endswith("bytes"):
            return self._slower_bytes
        return self._slower_operations if "operations" in name and name != "operations" else 1.0


def calibrated(machine: Machine | None = None) -> Rates:
    """The measured rates, for another machine where one is given."""
    return Rates(json.loads(CALIBRATION.read_text(encoding="utf-8")), machine)


def seconds(problem: TailProblem, ways: tuple[Way, ...], rates: Rates) -> float:
    """Time of the tail's launches and of the convolutions that are left to PyTorch."""
    total = rates.seconds("kernel forward", kernel_forward(problem, ways))
    if problem.backward:
        total += rates.seconds("kernel backward", kernel_backward(problem, ways))
    for branch, way in zip(problem.branches, ways, strict=True):
        if way == "library":
            total += rates.seconds("plain forward", convolution(problem, branch, backward=False))
            total += rates.seconds("plain backward", convolution(problem, branch, backward=True)) * problem.backward
    return total


def plain_seconds(problem: TailProblem, rates: Rates) -> float:
    """Time of PyTorch's own operations."""
    forward = rates.seconds("plain forward", plain(problem, backward=False))
    return forward + rates.seconds("plain backward", plain(problem, backward=True)) * problem.backward


def ways_of(problem: TailProblem) -> Iterator[tuple[Way, ...]]:
    """Everything that can be chosen, a way a branch."""
    return itertools.product(*map(_ways_of_branch, problem.branches))


def _ways_of_branch(branch: BranchProblem) -> tuple[Way, ...]:
    return ("moments", "library") if branch.source == "projection" else (None,)


def fastest(problem: TailProblem, rates: Rates, *, plain_too: bool) -> tuple[Way, ...] | None:
    """The fastest ways of a tail's branches; None where PyTorch's own operations are faster than any, if `plain_too`.

    Without a norm or with running statistics, "moments" stands for the kernels' product.
    """
    best = min(ways_of(problem), key=lambda ways: seconds(problem, ways, rates))
    return None if plain_too and plain_seconds(problem, rates) < seconds(problem, best, rates) else best


def _amounts(first: Amounts) -> defaultdict[str, float]:
    return defaultdict(float, first)


def _is_product(branch: BranchProblem, way: Way) -> bool:
    """Whether it is multiplied where y is written."""
    return branch.source == "projection" and way != "library"


def _needs_gradient_of_sum(branch: BranchProblem, way: Way) -> bool:
    """Whether g is written for it (`backends.kernels.phases.BranchGradient.needs_masked`)."""
    if branch.source == "direct":
        return branch.norm == "none"
    if branch.source == "zero_pad" or way == "library":
        return False
    return branch.in_channels > _TILE


def _tiled(channels: int) -> int:
    return _NARROW_TILE if channels <= _NARROW_TILE else -(-channels // _TILE) * _TILE


class _Sizes:
    """Bytes of y, of its relu's mask, and of a branch's x and dx; operations of its products."""

    def __init__(self, problem: TailProblem) -> None:
        self._problem = problem
        self.y = problem.rows * problem.channels * problem.element_size
        self.mask = problem.rows * mask_bytes(problem.channels, problem.element_size)
        self.slower, self._parts = _SLOWER[problem.math], _PARTS[problem.math]

    def x(self, branch: BranchProblem) -> int:
        return self._problem.rows * branch.in_channels * self._problem.element_size

    def dx(self, branch: BranchProblem) -> int:
        return self.x(branch) * branch.stride**2

    def product(self, branch: BranchProblem) -> float:
        return self.slower * 2 * self._problem.rows * branch.in_channels * self._problem.channels

    def matrices(self, branch: BranchProblem) -> float:
        """Operations of W Cov."""
        return self.slower * self._parts * 2 * self._problem.channels * branch.in_channels**2
