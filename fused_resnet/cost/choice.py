"""How each branch of a tail is computed: as `use_strategy` forces it, or by what is fastest on the GPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from .. import backend, strategy
from ..backends.kernels import availability
from ..operation.branches import Branch, Direct, Projection, output_shape
from ..operation.checks import HALF_DTYPES
from ..operation.computation import StrategyChoice
from ..operation.requirement import kernels_required
from .cost_model import BranchProblem, Machine, Rates, Source, Statistics, TailProblem, Way, calibrated, fastest


def strategies(branches: Sequence[Branch], backward: bool) -> list[StrategyChoice] | None:
    """A strategy a branch, "auto" where the operators settle it; None where PyTorch's own operations are fastest.

    `backward` says whether gradients will be asked for. Where a compiler or an exporter looks on, sizes may be open,
    and the operators settle it.
    """
    if strategy.choice.value == "library":
        return ["library" if isinstance(branch, Projection) else "auto" for branch in branches]
    x = branches[0].x
    modelled = strategy.choice.value == "auto" and x.device.type == "cuda" and x.dtype != torch.float64
    if torch.compiler.is_compiling() or not modelled or not _kernels_compute(x.device):
        return ["auto"] * len(branches)
    problem = _problem_of(branches, backward)
    if not isinstance(problem.rows, int):  # another tracer's
        return ["auto"] * len(branches)
    plain_too = backend.choice.value == "auto" and not kernels_required()
    ways = _fastest(problem, x.device.index, plain_too)
    return None if ways is None else [way or "auto" for way in ways]


def _kernels_compute(device: torch.device) -> bool:
    return backend.chosen_for(device) == "cuda" and availability.missing_on(device.index) is None


@functools.lru_cache(maxsize=4096)
def _fastest(problem: TailProblem, device: int, plain_too: bool) -> tuple[Way, ...] | None:
    return fastest(problem, _rates_of(device), plain_too=plain_too)


@functools.cache
def _rates_of(device: int) -> Rates:
    return calibrated(machine_of(device))


def machine_of(device: int) -> Machine:
    """A GPU's multiprocessors, clock and bandwidth, as its driver states them; the measured GPU's where it does not."""
    of = torch.cuda.get_device_properties(device)
    bits_per_s = 2 * of.memory_clock_rate * 1e3 * of.memory_bus_width  # rates are in kHz
    if not bits_per_s or not of.clock_rate:
        return calibrated().measured_on
    return Machine(of.multi_processor_count, of.clock_rate * 1e3, bits_per_s / 8)


def _problem_of(branches: Sequence[Branch], backward: bool) -> TailProblem:
    (n, c, h, w), x = output_shape(branches[0]), branches[0].x
    tf32 = "tf32" if torch.backends.cudnn.allow_tf32 else "float32"
    math = "half" if x.dtype in HALF_DTYPES else tf32
    return TailProblem(n * h * w, c, tuple(map(_of_branch, branches)), x.element_size(), math, backward)


def _of_branch(branch: Branch) -> BranchProblem:
    norm = branch.norm
    statistics: Statistics = "none" if norm is None else "training" if norm.training else "running"
    source: Source = "direct" if isinstance(branch, Direct) else "zero_pad"
    source = "projection" if isinstance(branch, Projection) else source
    return BranchProblem(source, branch.x.shape[1], branch.stride, statistics)
