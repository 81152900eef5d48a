"""What a run of the benchmark does, from the command line."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

import torch

from ..clocks import clock_of
from ..modes import MODES, Mode
from ..options import add_backend, at_least, one_or_more_of
from ..tail_shapes import BATCH, NETWORKS, DistinctTail, distinct, small_of_each_kind
from .measure import Conditions
from .rotation import cache_bytes
from .ways import EAGER, FUSED, PEERS, TURNS, WAYS

_USUAL_PEERS = (EAGER, "eager-contiguous", "compile")
_GPU_PEERS = (*_USUAL_PEERS, "compile-max-autotune", "cudnn-fused")
_CPU_BATCH, _CPU_SECONDS, _CPU_RUNS, _GPU_RUNS = 4, 420.0, 11, 25
# Longer than Python takes to queue a call.
_BUSY_MS = {False: 2.0, True: 6.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is not common to all benchmarks."""
    some = "names, separated by commas, of"
    networks, modes, peers = (one_or_more_of(list(names)) for names in (NETWORKS, MODES, PEERS))
    parser.add_argument("--networks", type=networks, help=f"{some} {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--modes", type=modes, help=f"{some} {', '.join(MODES)}; default: all")
    parser.add_argument(
        "--peers",
        type=peers,
        help=f"{some} {', '.join(f'{name} ({WAYS[name].explained})' for name in PEERS)};"
        f" {EAGER} is always there; default: {', '.join(_GPU_PEERS)}"
        f" on a GPU, {', '.join(_USUAL_PEERS)} on a CPU",
    )
    parser.add_argument("--batch", type=at_least(1), help=f"images; default: {BATCH} on a GPU, {_CPU_BATCH} on a CPU")
    parser.add_argument(
        "--runs",
        type=at_least(2),
        help=f"timed calls of each way; default: {_GPU_RUNS} on a GPU, {_CPU_RUNS} on a CPU",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        help="begin no tail after that long, and compile none that could take longer; default: no limit on a GPU,"
        f" {_CPU_SECONDS:.0f} on a CPU",
    )
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
    networks = arguments.networks or list(NETWORKS)
    modes = [MODES[name] for name in arguments.modes or MODES]
    batch = arguments.batch or (BATCH if on_gpu else _CPU_BATCH)
    tails = [replace(tail, shape=replace(tail.shape, batch=batch)) for tail in distinct(networks)]
    peers = arguments.peers or list(_GPU_PEERS if on_gpu else _USUAL_PEERS)
    ways = (FUSED, EAGER, *(name for name in peers if name != EAGER))
    runs = arguments.runs or (_GPU_RUNS if on_gpu else _CPU_RUNS)
    seconds = arguments.seconds or (math.inf if on_gpu else _CPU_SECONDS)
    cache = cache_bytes(device)
    if arguments.quick:
        tails, runs, cache = small_of_each_kind(tails), 2, 2**16
    items: list[Item] = []
    for turn in sorted({WAYS[name].turn for name in ways}):
        so_far = tuple(name for name in ways if WAYS[name].turn <= turn)
        added = [Item(tail, mode, so_far) for tail in tails for mode in modes]
        items += added[-1:] if arguments.quick and turn else added
    clocks = {backward: clock_of(device, ms) for backward, ms in _BUSY_MS.items()}
    return Plan(
        items, seconds, Conditions(device, dtype, lambda mode: clocks[mode.backward], cache, runs, max(1, runs // 5))
    )
