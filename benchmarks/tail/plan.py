"""What a run of the benchmark does, from the command line."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch

from ..clocks import clock_of
from ..options import add_backend, at_least, one_or_more_of
from ..tail_shapes import BATCH, NETWORKS, DistinctTail, distinct, small_of_each_kind
from ..tails import MODES, Mode
from .measure import Conditions, cache_bytes
from .ways import EAGER, FUSED, PEERS, TURNS, WAYS

_USUAL_PEERS = (EAGER, "eager-contiguous", "compile")
_GPU_PEERS = (*_USUAL_PEERS, "compile-max-autotune", "cudnn-fused")
_CPU_BATCH, _CPU_SECONDS, _CPU_RUNS, _GPU_RUNS = 4, 420.0, 11, 25
# Longer than Python takes to queue a call.
_BUSY_MS = {False: 2.0, True: 6.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is not common to all benchmarks."""
    peers = ", ".join(f"{name} ({WAYS[name].explained})" for name in PEERS)
    usual = f"{', '.join(_GPU_PEERS)} on a GPU, {', '.join(_USUAL_PEERS)} on a CPU"
    limit = f"begin no tail after that long, and compile none that could take longer; {_CPU_SECONDS:.0f} on a CPU"
    for name, parse, what in (
        ("networks", one_or_more_of(NETWORKS), f"some of {', '.join(NETWORKS)}; default: all"),
        ("modes", one_or_more_of(MODES), f"some of {', '.join(MODES)}; default: all"),
        ("peers", one_or_more_of(PEERS), f"some of {peers}; {EAGER} is always there; default: {usual}"),
        ("batch", at_least(1), f"images; default: {BATCH} on a GPU, {_CPU_BATCH} on a CPU"),
        ("runs", at_least(2), f"timed calls of each way; default: {_GPU_RUNS} on a GPU, {_CPU_RUNS} on a CPU"),
        ("seconds", _positive, limit),
    ):
        parser.add_argument(f"--{name}", type=parse, help=what)
    add_backend(parser)


def _positive(text: str) -> float:
    """An argument's type."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"is {text}, expected more than 0")
    return float(text)


@dataclass(frozen=True)
class Item:
    """A tail in a mode, and the ways that are timed in turn."""

    tail: DistinctTail
    mode: Mode
    ways: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.tail.name} {self.mode.name}"

    @property
    def turn(self) -> int:
        return max(WAYS[name].turn for name in self.ways)

    @property
    def seconds(self) -> float:
        """What must be left for it to be begun."""
        return TURNS[self.turn][1]


@dataclass(frozen=True)
class Plan:
    """The items in their order, and how they are measured. What is compiled comes last: it takes longest."""

    items: list[Item]
    seconds: float
    conditions: Conditions

    @property
    def tails(self) -> list[DistinctTail]:
        """Each once."""
        return list({item.tail.shape.name: item.tail for item in self.items}.values())


def plan_of(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Plan:
    """The plan; defaults are the device's."""
    on_gpu = device.type == "cuda"
    modes = [MODES[name] for name in arguments.modes or MODES]
    tails = distinct(arguments.networks or NETWORKS, arguments.batch or (BATCH if on_gpu else _CPU_BATCH))
    peers = arguments.peers or (_GPU_PEERS if on_gpu else _USUAL_PEERS)
    ways = (FUSED, EAGER, *(name for name in peers if name != EAGER))
    runs = arguments.runs or (_GPU_RUNS if on_gpu else _CPU_RUNS)
    cache = cache_bytes(device)
    if arguments.quick:
        tails, runs, cache = small_of_each_kind(tails), 2, 2**16
    items: list[Item] = []
    for turn in sorted({WAYS[name].turn for name in ways}):
        so_far = tuple(name for name in ways if WAYS[name].turn <= turn)
        added = [Item(tail, mode, so_far) for tail in tails for mode in modes]
        items += added[-1:] if arguments.quick and turn else added
    clocks = {backward: clock_of(device, ms) for backward, ms in _BUSY_MS.items()}
    conditions = Conditions(device, dtype, lambda mode: clocks[mode.backward], cache, runs, max(1, runs // 5))
    return Plan(items, arguments.seconds or (math.inf if on_gpu else _CPU_SECONDS), conditions)
