"""Which projections are left to PyTorch's convolution: as `use_strategy` forces it, or by what is fastest."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from .. import backend, strategy
from ..backends.kernels import availability
from ..operation.branches import Branch, Direct, Projection, output_shape
from ..operation.checks import HALF_DTYPES
from ..operation.requirement import kernels_required
from .cost_model import BranchProblem, Machine, Rates, Source, Statistics, TailProblem, Way, calibrated, fastest


def by_library(branches: Sequence[Branch], backward: bool) -> list[bool] | None:
    """For each branch whether it is a projection that a convolution computes; None where all is left to PyTorch.

    `backward` says whether gradients will be asked for. Where a compiler or an exporter looks on, sizes may be open,
    and every projection takes moments.
    """
    forced = strategy.choice.value
    if forced == "library":
        return [isinstance(branch, Projection) for branch in branches]
    problem = None if forced == "moments" or torch.compiler.is_compiling() else _problem_of(branches, backward)
    if problem is None or not isinstance(problem.rows, int):  # another tracer's
        return [False] * len(branches)
    device, dtype = branches[0].x.device, branches[0].x.dtype
    computed_by = backend.chosen_for(device)
    if computed_by == "reference" or dtype == torch.float64:
        return [_is_dear_to_pytorch(problem, branch) for branch in problem.branches]
    if computed_by != "cuda" or availability.missing_on(device.index) is not None:
        return [False] * len(branches)
    plain_too = backend.choice.value == "auto" and not kernels_required()
    ways = _fastest(problem, device.index, plain_too)
    return None if ways is None else [way == "library" for way in ways]


def _is_dear_to_pytorch(problem: TailProblem, branch: BranchProblem) -> bool:
    """Whether PyTorch's operators take too long for a norm that is derived from its projection's input.

    In half precision they would have to multiply in float32. With many input channels and few rows, W Cov is more work
    than the projection.
    """
    if branch.source != "projection" or branch.norm == "none":
        return False
    return problem.math == "half" or (branch.norm == "training" and problem.rows < _ROWS_A_CHANNEL * branch.in_channels)


# Rows for each input channel from which on plain PyTorch takes moments. With fewer they take 1.5 to 8 times as long as
# a convolution, measured on two CPU cores; with more up to 1.7 times, for the memory that they save.
_ROWS_A_CHANNEL = 8


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
