"""Random programs have a race exactly if two of their accesses conflict with no barrier in between.

The emulator keeps two stamps per byte and counts along the way; here, every pair of accesses is looked at.
"""

import itertools
from dataclasses import dataclass

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from emulator.library import KernelError

pytest_plugins = ["emulator.fixtures"]
pytestmark = pytest.mark.emulated

BLOCKS, THREADS, WARP = 2, 64, 32
BYTES = 8
# As in kernels/programs.cu.
READ_SHARED, WRITE_SHARED, READ_GLOBAL, WRITE_GLOBAL, SYNC_WARP, SYNC_BLOCK, SYNC_GRID = range(1, 8)

# Few threads and bytes, so that many accesses conflict: two of a warp, one of another, two of the other block.
ACTORS = [0, 1, 32, 64, 127]


@dataclass(frozen=True)
class Access:
    step: int
    thread: int  # in the grid
    operation: int
    byte: int
    size: int

    @property
    def block(self):
        return self.thread // THREADS

    @property
    def warp(self):
        return self.thread // WARP

    @property
    def memory(self):
        shared = self.operation in (READ_SHARED, WRITE_SHARED)
        return {(self.block if shared else "global", self.byte + i) for i in range(self.size)}

    @property
    def writes(self):
        return self.operation in (WRITE_SHARED, WRITE_GLOBAL)


@dataclass(frozen=True)
class Barrier:
    step: int
    operation: int
    group: int  # the warp or block whose threads meet; of all threads of the grid, 0

    def orders(self, first, second):
        groups = {SYNC_WARP: lambda a: a.warp, SYNC_BLOCK: lambda a: a.block, SYNC_GRID: lambda a: 0}
        group = groups[self.operation]
        return first.step < self.step < second.step and group(first) == group(second) == self.group


@st.composite
def accesses(draw, step):
    thread = draw(st.sampled_from(ACTORS))
    operation = draw(st.sampled_from([READ_SHARED, WRITE_SHARED, READ_GLOBAL, WRITE_GLOBAL]))
    size = draw(st.sampled_from([1, 4]))
    return Access(step, thread, operation, draw(st.integers(0, BYTES // size - 1)) * size, size)


def barriers(step):
    groups = {SYNC_WARP: BLOCKS * THREADS // WARP, SYNC_BLOCK: BLOCKS, SYNC_GRID: 1}
    return st.sampled_from([Barrier(step, sync, group) for sync, count in groups.items() for group in range(count)])


@st.composite
def programs(draw):
    """One access or barrier per step."""
    return [draw(st.one_of(accesses(step), barriers(step))) for step in range(draw(st.integers(1, 12)))]


def has_race(program):
    made = [step for step in program if isinstance(step, Access)]
    met = [step for step in program if isinstance(step, Barrier)]
    return any(
        first.thread != second.thread
        and first.memory & second.memory
        and (first.writes or second.writes)
        and not any(barrier.orders(first, second) for barrier in met)
        for first, second in itertools.combinations(made, 2)
    )


def instructions(program):
    """By step and thread: operation, first byte and size; idle threads do nothing."""
    table = np.zeros((len(program), BLOCKS * THREADS, 4), np.int32)
    sizes = {SYNC_WARP: WARP, SYNC_BLOCK: THREADS, SYNC_GRID: BLOCKS * THREADS}
    for step in program:
        if isinstance(step, Access):
            table[step.step, step.thread, :3] = step.operation, step.byte, step.size
        else:
            size = sizes[step.operation]
            table[step.step, step.group * size : (step.group + 1) * size, 0] = step.operation
    return table


def phases(program):
    """The program's steps, split at its grid barriers."""
    split = [[]]
    for step in program:
        if step.operation == SYNC_GRID:
            split.append([])
        else:
            split[-1].append(step)
    return split


def traffic(phase):
    """What the emulator must count of the accesses to global memory in a phase."""
    counted = {}
    for kind, operation in (("read", READ_GLOBAL), ("written", WRITE_GLOBAL)):
        made = [step for step in phase if step.operation == operation]
        counted[f"distinct_{kind}"] = len(set().union(*(access.memory for access in made)))
        counted[f"requested_{kind}"] = sum(access.size for access in made)
    return counted


@hypothesis.settings(max_examples=500)
@hypothesis.given(program=programs(), seed=st.integers(0, 1000))
def test_race_is_reported_exactly_if_there_is_one(emulator, program, seed):
    arguments = "run_program", instructions(program), len(program), np.zeros(BYTES, np.uint8), BYTES
    emulator.set_seed(seed)
    try:
        if has_race(program):
            with pytest.raises(KernelError, match=r"^race: "):
                emulator.run(*arguments)
        else:
            (launch,) = emulator.count(*arguments)
            counted = [phase["buffers"]["memory"] for phase in launch["phases"]]
            assert counted == [traffic(phase) for phase in phases(program)]
    finally:
        emulator.set_seed(0)


@pytest.mark.parametrize(
    ("operation", "report"),
    [
        (READ_SHARED, r"out of bounds: read of shared bytes \[4, 8\) of 6"),
        (WRITE_SHARED, r"out of bounds: write of shared bytes \[4, 8\) of 6"),
        (READ_GLOBAL, r"out of bounds: read of bytes \[4, 8\) of buffer memory, which has 6"),
        (WRITE_GLOBAL, r"out of bounds: write of bytes \[4, 8\) of buffer memory, which has 6"),
    ],
)
def test_access_that_is_half_in_bounds(emulator, operation, report):
    program = [Access(step=0, thread=1, operation=operation, byte=4, size=4)]
    with pytest.raises(KernelError, match=report):
        emulator.run("run_program", instructions(program), 1, np.zeros(6, np.uint8), 6)
