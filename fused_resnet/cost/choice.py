"""Which projections are left to PyTorch's convolution: as `use_strategy` forces it, or by what is fastest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from .. import backend, strategy
from ..backends.kernels import availability
from ..operation.branches import Branch, Direct, Projection, output_shape
from ..operation.checks import HALF_DTYPES
from ..operation.requirement import kernels_required
from .cost_model import BranchProblem, Machine, Rates, Source, Statistics, TailProblem, Way, calibrated, fastest


def by_library(branches: Sequence[Branch], backward: bool) -> list[bool] | None:
    """For each branch whether it is a projection that a convolution computes; None where all is left to PyTorch.

    `backward` says whether gradients will be asked for. Where another tracer than torch.compile looks on, sizes may be
    open, and every projection takes moments.
    """
    forced = strategy.choice.value
    if forced == "library":
        return [isinstance(branch, Projection) for branch in branches]
    if forced == "moments":
        return [False] * len(branches)
    x, described = branches[0].x, _described(branches)
    if not torch.compiler.is_compiling():
        decided = _decided(described, x.dtype, x.device, backward, True) if _is_known(described) else ()
    elif torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        hinted = _hinted(described)
        decided = () if hinted is None else _decided_for_a_graph(hinted, x.dtype, x.device, backward)
    else:
        decided = ()
    return None if decided is None else list(decided) or [False] * len(branches)


# Rows and channels of the output; source, input channels, stride and statistics of each branch.
_Described: TypeAlias = tuple[int, int, tuple[tuple[Source, int, int, Statistics], ...]]


def _described(branches: Sequence[Branch]) -> _Described:
    """In what a compiler can follow."""
    n, c, h, w = output_shape(branches[0])
    return n * h * w, c, tuple([_described_branch(branch) for branch in branches])


def _described_branch(branch: Branch) -> tuple[Source, int, int, Statistics]:
    norm = branch.norm
    statistics: Statistics = "none" if norm is None else "training" if norm.training else "running"
    source: Source = "direct" if isinstance(branch, Direct) else "zero_pad"
    source = "projection" if isinstance(branch, Projection) else source
    return source, branch.x.shape[1], branch.stride, statistics


def _is_known(described: _Described) -> bool:
    """Whether the rows are a number, which they are not while another tracer looks on."""
    return isinstance(described[0], int)


def _hinted(described: _Described) -> _Described | None:
    """The sizes of the call that is being compiled: they decide, and the graph stays open to others.

    None by compilers that do not tell them.
    """
    from torch.fx.experimental import symbolic_shapes  # which takes long, and is there wherever something is compiled

    hint: Callable[[int], int] | None = getattr(symbolic_shapes, "optimization_hint", None)
    if hint is None:
        return None
    rows, channels, each = described
    return hint(rows), hint(channels), tuple([(source, hint(k), s, norm) for source, k, s, norm in each])


def _decided_for_a_graph(
    described: _Described, dtype: torch.dtype, device: torch.device, backward: bool
) -> tuple[bool, ...] | None:
    """Without PyTorch's own operations: what a compiler makes of them is another matter."""
    return _decided(described, dtype, device, backward, False)


# A compiler calls it and keeps the result, as `torch.compiler.assume_constant_result` says, which imports the compiler.
vars(_decided_for_a_graph)["_dynamo_marked_constant"] = True


def _decided(
    described: _Described, dtype: torch.dtype, device: torch.device, backward: bool, plain_too: bool
) -> tuple[bool, ...] | None:
    """As `by_library`; nothing where there is nothing to choose. `plain_too`: None may be the answer."""
    rows, channels, each = described
    tf32 = "tf32" if torch.backends.cudnn.allow_tf32 else "float32"
    math = "half" if dtype in HALF_DTYPES else tf32
    of_branches = tuple(BranchProblem(*of) for of in each)
    problem = TailProblem(rows, channels, of_branches, dtype.itemsize, math, backward)
    computed_by = backend.chosen_for(device)
    if computed_by == "reference" or dtype == torch.float64:
        return tuple(_is_dear_to_pytorch(problem, branch) for branch in problem.branches)
    if computed_by != "cuda" or availability.missing_on(device.index) is not None:
        return ()
    plain_too = plain_too and backend.choice.value == "auto" and not kernels_required()
    ways = _fastest(problem, device.index, plain_too)
    return None if ways is None else tuple(way == "library" for way in ways)


def _is_dear_to_pytorch(problem: TailProblem, branch: BranchProblem) -> bool:
    """Whether PyTorch's operators take too long for a norm that is derived from its projection's input.

    In half precision they would have to multiply in float32. With few rows W Cov is more work than the projection, and
    with no more output channels than input channels so is x^T x.
    """
    if branch.source != "projection" or branch.norm == "none":
        return False
    if problem.math == "half":
        return True
    return branch.norm == "training" and (
        problem.rows < _ROWS_A_CHANNEL * branch.in_channels or problem.channels <= branch.in_channels
    )


# Rows for each input channel from which on plain PyTorch takes moments. With fewer they take 1.5 to 8 times as long as
# a convolution, measured on two CPU cores, and 1.9 to 3.4 times with no more outputs than inputs; otherwise up to 1.7
# times, for the memory that they save.
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
