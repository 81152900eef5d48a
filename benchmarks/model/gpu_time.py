"""From counted amounts to time, on a GPU that is described by a few constants.

A phase is limited by several things at once, each of which alone would take a time of its own:

===========  =======================================================================================================
memory       distinct bytes, at the rate of memory
L2           requested bytes, at the rate of the L2 cache
shared       wavefronts of shared memory, one a cycle and multiprocessor
tensor       operations, at the rate of the tensor cores
issue        instructions, by what their kind costs a multiprocessor with all that is done around it
latency      what a single block cannot do faster: rounds of loads, and its instructions
===========  =======================================================================================================

They overlap, but not perfectly: the time is their p-norm, a little more than the largest. Where blocks or
multiprocessors have unequal work, the busiest counts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .counting import INSTRUCTIONS, Amounts

FILE = Path(__file__).with_name("h100.json")
_COPY_BYTES, _WARP = 16, 32


@dataclass(frozen=True)
class Gpu:
    """A GPU; rates are a second's, times in seconds.

    Attributes:
        memory, cache: bytes, of memory and of the L2 cache.
        wavefronts: of shared memory, a cycle and multiprocessor.
        operations: of the tensor cores, as the kernels' instructions reach them.
        memory_latency, cache_latency: of a round of loads from either.
        alone: how many times as long a block takes alone for instructions that several would issue in turn.
        norm: the p of the p-norm.
        launch, barrier: of a launch, and of a barrier of the whole grid.
        cycles: of a multiprocessor, by the kind of instruction; "scattered": of each that finds the rows of a warp's
            16-byte copies, where they lie apart; "transposed_matrices" with the stage around them, as it was then.
    """

    multiprocessors: int
    clock_hz: float
    memory: float
    cache: float
    wavefronts: float
    operations: float
    memory_latency: float
    cache_latency: float
    alone: float
    norm: float
    launch: float
    barrier: float
    cycles: dict[str, float]


def read(path: Path = FILE) -> Gpu:
    """The fitted constants."""
    return Gpu(**json.loads(path.read_text(encoding="utf-8")))


def write(gpu: Gpu, path: Path = FILE) -> None:
    """For `read`."""
    path.write_text(json.dumps(asdict(gpu), indent=2) + "\n", encoding="utf-8")


def parts(amounts: Amounts, gpu: Gpu) -> dict[str, float]:
    """Seconds that each limit alone would take."""
    each_cycle = gpu.multiprocessors * gpu.clock_hz
    shares = {"transposed_matrices": amounts.stage_share}
    cycles = sum(getattr(amounts, kind) * gpu.cycles[kind] * shares.get(kind, 1.0) for kind in INSTRUCTIONS)
    cycles += amounts.scattered / _COPY_BYTES / _WARP * amounts.scattered_slots * gpu.cycles["scattered"]
    # A share of the loads finds in the cache what others have brought there.
    missed = min(1.0, amounts.distinct / amounts.requested) if amounts.requested else 1.0
    latency = missed * gpu.memory_latency + (1 - missed) * gpu.cache_latency
    blocks = min(amounts.items, amounts.slots)
    rounds = amounts.longest or amounts.rounds / blocks * amounts.uneven
    of_a_block = cycles / (amounts.slots if amounts.longest else blocks) * amounts.uneven
    return {
        "memory": amounts.distinct / gpu.memory,
        "L2": amounts.requested / gpu.cache,
        "shared": amounts.wavefronts / gpu.wavefronts / each_cycle * amounts.uneven_multiprocessors,
        "tensor": amounts.operations / gpu.operations * amounts.uneven_multiprocessors,
        "issue": cycles / each_cycle * amounts.uneven_multiprocessors,
        "latency": rounds * latency + of_a_block * gpu.alone / gpu.clock_hz,
    }


def seconds(amounts: Amounts, gpu: Gpu) -> float:
    """How long a launch of the phase alone takes."""
    together = sum(part**gpu.norm for part in parts(amounts, gpu).values()) ** (1 / gpu.norm)
    return float(together + gpu.launch + amounts.grid_barriers * gpu.barrier)


def limit(amounts: Amounts, gpu: Gpu) -> str:
    """The name of the largest part; "launch" where launch and barriers take longer than all."""
    of = parts(amounts, gpu)
    largest = max(of, key=of.__getitem__)
    return largest if of[largest] > gpu.launch + amounts.grid_barriers * gpu.barrier else "launch"
