"""From counted amounts to time, on a GPU that is described by a few constants.

A phase is limited by several things at once, each of which alone would take a time of its own:

===========  =======================================================================================================
memory       distinct bytes, at the rate of a copy
L2           requested bytes, at the rate of the L2 cache
shared       wavefronts of shared memory, one a cycle and multiprocessor
tensor       operations, at the rate of a large product
issue        instructions, as many a cycle as a multiprocessor with these blocks issues
latency      what a single block cannot do faster: rounds of loads, one after the other, and its instructions
===========  =======================================================================================================

They overlap, but not perfectly: the time is their p-norm, a little more than the largest. Where blocks or
multiprocessors have unequal work, the busiest counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .counting import Amounts

FILE = Path(__file__).with_name("h100.json")


@dataclass(frozen=True)
class Gpu:
    """A GPU; rates are a second's, times in seconds.

    Attributes:
        multiprocessors, clock_hz: of the data sheet.
        memory: bytes that a copy reads and writes, measured.
        operations: of a large product on the tensor cores, measured.
        cache: bytes of the L2 cache, as others measured them.
        latency: of a round of loads, under load; this and what follows is fitted.
        issued: instructions, a cycle and multiprocessor.
        norm: the p of the p-norm.
        launch, barrier: of a launch, and of a barrier of the whole grid.
    """

    multiprocessors: int
    clock_hz: float
    memory: float
    operations: float
    cache: float
    latency: float
    issued: float
    norm: float
    launch: float
    barrier: float


def read(path: Path = FILE) -> Gpu:
    """The fitted constants."""
    return Gpu(**json.loads(path.read_text(encoding="utf-8")))


def write(gpu: Gpu, path: Path = FILE) -> None:
    """For `read`."""
    path.write_text(json.dumps(asdict(gpu), indent=2) + "\n", encoding="utf-8")


def parts(amounts: Amounts, gpu: Gpu) -> dict[str, float]:
    """Seconds that each limit alone would take."""
    cycles = gpu.multiprocessors * gpu.clock_hz
    blocks = min(amounts.items, amounts.slots)
    rounds = amounts.longest or amounts.rounds / blocks * amounts.uneven
    of_a_block = amounts.instructions / (amounts.slots if amounts.longest else blocks) * amounts.uneven
    return {
        "memory": amounts.distinct / gpu.memory,
        "L2": amounts.requested / gpu.cache,
        "shared": amounts.wavefronts / cycles * amounts.uneven_multiprocessors,
        "tensor": amounts.operations / gpu.operations * amounts.uneven_multiprocessors,
        "issue": amounts.instructions / gpu.issued / cycles * amounts.uneven_multiprocessors,
        "latency": rounds * gpu.latency + of_a_block / gpu.issued / gpu.clock_hz,
    }


def seconds(amounts: Amounts, gpu: Gpu) -> float:
    """How long a launch of the phase alone takes."""
    together = sum(part**gpu.norm for part in parts(amounts, gpu).values()) ** (1 / gpu.norm)
    return float(together + gpu.launch + amounts.grid_barriers * gpu.barrier)


def launch_seconds(phases: Sequence[float], gpu: Gpu) -> float:
    """How long phases take in one launch, with barriers between them, that take so long alone."""
    return sum(phases) - (len(phases) - 1) * (gpu.launch - gpu.barrier)


def limit(amounts: Amounts, gpu: Gpu) -> str:
    """The name of the largest part; "launch" where launch and barriers take longer than all."""
    of = parts(amounts, gpu)
    largest = max(of, key=of.__getitem__)
    return largest if of[largest] > gpu.launch + amounts.grid_barriers * gpu.barrier else "launch"
