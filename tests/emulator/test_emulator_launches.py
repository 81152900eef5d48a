"""What the host sees of the emulator: counters, results whatever the order of threads, large buffers, concurrency."""

import resource
import threading

import numpy as np
import pytest
import torch

pytest_plugins = ["emulator.fixtures"]
pytestmark = pytest.mark.emulated

COUNT, BLOCKS, THREADS = 1000, 3, 64


def copy_twice(machine, count=COUNT):
    source = np.arange(1, count + 1, dtype=np.float32)
    target = np.full(count, np.nan, np.float32)
    machine.run("run_copy_twice", source, target, count, BLOCKS)
    np.testing.assert_array_equal(target, 2 * source + source[0])
    return target


def traffic(read, written, requested_read, requested_written):
    return {
        "distinct_read": 4 * read,
        "distinct_written": 4 * written,
        "requested_read": 4 * requested_read,
        "requested_written": 4 * requested_written,
    }


def test_counters_of_two_phases(emulator, seed):
    values = np.ones(COUNT, np.float32)
    (launch,) = emulator.count("run_copy_twice", values, values.copy(), COUNT, BLOCKS)
    multiply_adds = [phase.pop("work")["multiply_adds"] for phase in launch["phases"]]
    assert multiply_adds == [0, BLOCKS * THREADS // 32 * 16 * 8 * 16]
    assert launch == {
        "kernel": "copy_twice",
        "cooperative": True,
        "blocks": BLOCKS,
        "threads": THREADS,
        "phases": [
            {
                "buffers": {"from": traffic(COUNT, 0, COUNT, 0), "to": traffic(0, COUNT, 0, COUNT)},
            },
            {
                "buffers": {"from": traffic(1, 0, COUNT, 0), "to": traffic(COUNT, COUNT, COUNT, COUNT)},
            },
        ],
    }


def test_counting_stops_and_starts_anew(emulator):
    values = np.ones(COUNT, np.float32)
    copy_twice(emulator)
    assert len(emulator.count("run_copy_twice", values, values.copy(), COUNT, BLOCKS)) == 1
    copy_twice(emulator)
    assert len(emulator.count("run_copy_twice", values, values.copy(), COUNT, BLOCKS)) == 1


def test_results_do_not_depend_on_the_order_of_threads(emulator, seed):
    copy_twice(emulator)


def test_copy_on_this_machine(machine):
    copy_twice(machine)


def test_same_buffer_under_two_names(emulator):
    values = np.arange(COUNT, dtype=np.float32)
    (launch,) = emulator.count("bits_and_back", values, values, COUNT)
    np.testing.assert_array_equal(values, np.arange(COUNT))
    (phase,) = launch["phases"]
    assert phase["buffers"] == {"from+to": traffic(COUNT, COUNT, COUNT, COUNT)}


def test_resident_blocks(emulator):
    def resident(shared_bytes):
        blocks = np.zeros(1, np.int32)
        emulator.run("run_resident_blocks", shared_bytes, blocks)
        return blocks[0]

    assert [resident(size) for size in (0, 1024, 50 * 1024, 50 * 1024 + 1, 101 * 1024)] == [8, 8, 8, 4, 4]
    emulator.library.emulator_set_multiprocessors(7)
    try:
        assert resident(1024) == 14
    finally:
        emulator.library.emulator_set_multiprocessors(4)


def most_kibibytes():
    """The most memory that this process has ever taken up."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("size", [100, (64 << 20) + 1, 6 << 30])  # copied; in place; beyond 32-bit offsets
def test_both_ends_of_buffers(emulator, seed, size):
    array = np.zeros(size, np.uint8)
    array[0], array[-1] = 3, 4
    before = most_kibibytes()
    emulator.run("run_add_ends", array, np.int64(size))
    assert (array[0], array[-1]) == (3, 7)
    assert most_kibibytes() - before < 1 << 20  # memory that nobody touches takes up no room


def test_launches_from_several_threads(emulator):
    failures = []

    def work():
        try:
            for _ in range(50):
                copy_twice(emulator, 5000)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_large_buffers_on_a_gpu(gpu):
    array = torch.zeros(6 << 30, dtype=torch.uint8, device="cuda")
    array[0], array[-1] = 3, 4
    gpu.run("run_add_ends", array, np.int64(len(array)))
    assert (array[0].item(), array[-1].item()) == (3, 7)
