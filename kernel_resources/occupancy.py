"""How many blocks of a kernel a multiprocessor holds at the same time, and how many it has to hold.

The limits are those of the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fused_resnet.kernel_build.toolchain import release

from .binary import Kernel, Usage, usages

WARP = 32
REGISTERS = 64 * 1024
# A multiprocessor consists of four parts with registers of their own, which warps get in units.
PARTS = 4
REGISTER_UNIT = 256
# What the system keeps of the shared memory of each block.
RESERVED_SHARED = 1024
SHARED_UNIT = 128


@dataclass(frozen=True)
class Multiprocessor:
    shared_kib: int
    threads: int

    def blocks_by_registers(self, registers: int, threads: int) -> int:
        warps_of_a_part = REGISTERS // PARTS // _rounded_up(registers * WARP, REGISTER_UNIT)
        return PARTS * warps_of_a_part // (threads // WARP)

    def blocks_by_shared(self, shared_bytes: int) -> int:
        return self.shared_kib * 1024 // _rounded_up(shared_bytes + RESERVED_SHARED, SHARED_UNIT)

    def blocks_by_threads(self, threads: int) -> int:
        return self.threads // threads


MULTIPROCESSORS = {
    "8.0": Multiprocessor(164, 2048),
    "8.6": Multiprocessor(100, 1536),
    "8.9": Multiprocessor(100, 1536),
    "9.0": Multiprocessor(228, 2048),
    "10.0": Multiprocessor(228, 2048),
    "12.0": Multiprocessor(100, 1536),
}


@dataclass(frozen=True)
class Needs:
    """What a kernel's launch asks for; `blocks`: how many a multiprocessor its launch bounds leave registers for."""

    threads: int
    shared_bytes: int
    blocks: int


@dataclass(frozen=True)
class Occupancy:
    usage: Usage
    needs: Needs

    @property
    def kernel(self) -> Kernel:
        return self.usage.kernel

    @property
    def shared_bytes(self) -> int:
        # From 9.0 on the compiler counts what the system keeps as static shared memory.
        counted = RESERVED_SHARED if release(self.usage.architecture) >= (9, 0) else 0
        return self.needs.shared_bytes + max(0, self.usage.static_shared - counted)

    @property
    def blocks(self) -> int:
        multiprocessor, threads = MULTIPROCESSORS[self.usage.architecture], self.needs.threads
        return min(
            multiprocessor.blocks_by_registers(self.usage.registers, threads),
            multiprocessor.blocks_by_shared(self.shared_bytes),
            multiprocessor.blocks_by_threads(threads),
        )

    @property
    def claim(self) -> int:
        """As many as the launch bounds say, or as the shared memory that the kernel was designed with lets in."""
        by_shared = MULTIPROCESSORS[self.usage.architecture].blocks_by_shared(self.needs.shared_bytes)
        return min(self.needs.blocks, by_shared)


def collect(library: Path, launch_needs: Mapping[str, Sequence[int]]) -> list[Occupancy]:
    """The occupancy of each kernel and architecture in a built module; `launch_needs` is what its function gives."""
    needs = {family: Needs(*numbers) for family, numbers in launch_needs.items()}
    found = [Occupancy(usage, needs[usage.kernel.family]) for usage in usages(library)]
    return sorted(found, key=lambda one: (one.kernel.order, release(one.usage.architecture)))


def problems(kernels: Iterable[Occupancy]) -> list[str]:
    """Where a kernel keeps registers in memory, or fewer blocks fit than are claimed; one line each."""
    found = []
    for one in kernels:
        name, usage = f"{one.kernel} for {one.usage.architecture}", one.usage
        if usage.stack or usage.local:
            found.append(f"{name} has a stack of {max(usage.stack, usage.local)} bytes, as if registers were spilled")
        if one.blocks < max(1, one.claim):
            found.append(
                f"{name} takes {usage.registers} registers and {one.shared_bytes} bytes of shared memory: "
                f"{one.blocks} blocks fit on a multiprocessor, {max(1, one.claim)} are claimed"
            )
    return found


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
