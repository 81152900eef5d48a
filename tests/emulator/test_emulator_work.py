"""The emulator counts what keeps a GPU busy, and sees the faults of a pipeline that runs on from item to item."""

import numpy as np
import pytest
from emulator.library import KernelError

pytest_plugins = ["emulator.fixtures"]
pytestmark = pytest.mark.emulated

THREADS, STAGES, COPY = 64, 4, 16
TOGETHER = 12  # loads of a thread that may be under way at the same time


def work_of(emulator, function, *arguments):
    (launch,) = emulator.count(function, *arguments)
    (phase,) = launch["phases"]
    return phase["work"]


def loaded(emulator, first, second, warps=2):
    source = np.ones((first + second) * THREADS, np.float32)
    return work_of(emulator, "run_load_in_rounds", source, np.zeros(THREADS, np.float32), first, second, warps)


@pytest.mark.parametrize(
    ("first", "second", "rounds"), [(1, 1, 2), (TOGETHER, 1, 2), (TOGETHER + 1, 1, 3), (3 * TOGETHER, TOGETHER, 4)]
)
def test_loads_are_one_round_until_something_is_written_or_too_many_are_under_way(emulator, first, second, rounds):
    work = loaded(emulator, first, second)
    assert work["load_rounds"] == THREADS * rounds
    assert work["rounds"] == pytest.approx(rounds)


def test_rounds_are_those_of_the_busiest_warp(emulator):
    """Half of the block's threads are idle, and no load is done sooner for it."""
    work = loaded(emulator, 5, 5, warps=1)
    assert work["load_rounds"] == THREADS // 2 * 2
    assert (work["rounds"], work["longest"]) == pytest.approx((2, 2))


def test_instructions_are_counted_as_if_every_warp_had_as_many_as_the_busiest(emulator):
    assert loaded(emulator, 5, 5, warps=1)["issued"] == loaded(emulator, 5, 5, warps=2)["issued"]
    issued = loaded(emulator, 5, 5)["issued"]
    assert (issued["load"], issued["store"], issued["copy"]) == (THREADS * 10, THREADS * 2, 0)


def ring(items, steps):
    source = np.random.default_rng(0).random((items, steps, THREADS, 4), np.float32)
    return source, np.zeros((items, THREADS), np.float32)


def test_waits_and_bytes_under_way(emulator, seed):
    """Three stages are under way at each wait, over the items' borders, until the last items run out."""
    source, sums = ring(items=3, steps=2)
    work = work_of(emulator, "run_sum_by_ring", source, sums, 3, 2, 0)
    np.testing.assert_allclose(sums, np.roll(source[..., 0].sum(1), -2, axis=-1), rtol=1e-6)
    under_way = [3, 3, 3, 3, 2, 1]
    assert work["waits"] == THREADS * 6
    assert work["under_way"] == THREADS * COPY * sum(under_way)
    assert work["drained"] == pytest.approx(THREADS * sum(1 / stages for stages in under_way))
    assert work["barriers"] == THREADS * (6 + 3)


@pytest.mark.parametrize(
    ("fault", "message"), [(1, "in flight"), (2, "in flight|race"), (3, "race|uninitialised")], ids=str
)
def test_faults_at_the_borders_of_items_are_seen(emulator, seed, fault, message):
    """A wait one too early, a stage filled again while others read it, no barrier ahead of the neighbours' sums."""
    source, sums = ring(items=3, steps=2)
    with pytest.raises(KernelError, match=message):
        emulator.run("run_sum_by_ring", source, sums, 3, 2, fault)


@pytest.mark.parametrize(
    ("stride", "size", "wavefronts"),
    [(1, 4, 1), (2, 4, 2), (32, 4, 32), (33, 4, 1), (4, 16, 4), (8, 16, 8), (32, 16, 32), (36, 16, 4)],
)
def test_banks_that_several_lanes_want_take_a_wavefront_each(emulator, stride, size, wavefronts):
    """32 banks of 4 bytes; of 16 bytes, 8 lanes go at a time (CUDA C++ Programming Guide, shared memory)."""
    assert work_of(emulator, "run_touch_banks", stride, size)["wavefronts"] == wavefronts
