"""Each planted fault is reported under its name and line, whatever the order of threads; its correct twin runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from emulator.library import KERNELS, KernelError

pytest_plugins = ["emulator.fixtures"]
pytestmark = pytest.mark.emulated

COUNT = 128  # elements of each of a twin's arrays

# What the report says of the kind, and of the place in memory.
FAULTS = {
    "missing_block_barrier": r"race: (read|write) of shared bytes",
    "missing_warp_barrier": r"race: (read|write) of shared bytes",
    "warp_barrier_across_warps": r"race: (read|write) of shared bytes",
    "overwritten_while_read": r"race: (read|write) of shared bytes \[0, 4\)",
    "two_writers": r"race: write of shared bytes \[0, 4\)",
    "shared_out_of_bounds": r"out of bounds: write of shared bytes \[1024, 1028\) of 1024",
    "shared_misaligned": r"misaligned: read of shared bytes \[8, 24\)",
    "shared_uninitialised": r"uninitialised: read of shared bytes \[20, 24\)",
    "missing_wait": r"in flight: read of shared bytes",
    "missing_commit": r"in flight: read of shared bytes",
    "wait_for_too_few": r"in flight: read of shared bytes \[(2[5-9]\d|[345]\d\d), ",
    "missing_barrier_after_wait": r"(race|in flight): (read|copy) of shared bytes",
    "missing_warp_barrier_after_wait": r"(race|in flight): (read|copy) of shared bytes",
    "refill_before_barrier": r"(race|in flight): (read|copy) of shared bytes",
    "skipped_copy": r"uninitialised: read of shared bytes \[1(1[2-9]|2[0-7]), ",
    "copy_out_of_bounds": r"out of bounds: read of bytes \[\d+, \d+\) of buffer input, which has 512",
    "source_overwritten": r"race: (copy|write) of bytes \[\d+, \d+\) of buffer workspace",
    "leaked_copy": r"leak: .* copy to shared bytes \[\d+, \d+\)",
    "warp_skips_barrier": r"deadlock: block_sync .* has returned",
    "barriers_of_two_lines": r"divergence: block_sync in .* waits in block_sync in ",
    "early_return": r"deadlock: block_sync .* thread 3 of block [01] has returned",
    "divergent_warp": r"divergence: warp_exchange in .* waits in warp_exchange in ",
    "missing_lane": r"deadlock: warp_exchange .* thread (31|63) of block [01] has returned",
    "block_skips_grid_barrier": r"deadlock: grid_sync .* of block 1 has returned",
    "missing_grid_barrier": r"race: (read|write) of bytes \[\d+, \d+\) of buffer workspace.*, phase 1,",
    "global_missing_block_barrier": r"race: (read|write) of bytes \[\d+, \d+\) of buffer workspace",
    "racing_blocks": r"race: write of bytes \[4, 8\) of buffer workspace, written by thread 0 of block [01]",
    "read_past_end": r"out of bounds: read of bytes \[512, 516\) of buffer input, which has 512",
    "read_before_begin": r"out of bounds: read of bytes \[-4, 0\) of buffer input, which has 512",
    "write_past_end": r"out of bounds: write of bytes \[512, 516\) of buffer output, which has 512",
    "global_misaligned": r"misaligned: read of bytes \[8, 24\) of buffer input",
    "workspace_uninitialised": r"uninitialised: read of bytes \[508, 512\) of buffer workspace",
    "write_to_read_only": r"read-only: write of bytes \[\d+, \d+\) of buffer input",
}
# Correct twins whose output is the input with so many elements, a block's or fewer, in reverse order, times a number.
MIRRORED = {
    64: {
        "missing_block_barrier": 1,
        "warp_barrier_across_warps": 1,
        "shared_uninitialised": 1,
        "missing_wait": 1,
        "missing_commit": 1,
        "wait_for_too_few": 2,
        "missing_barrier_after_wait": 1,
        "refill_before_barrier": 3,
        "skipped_copy": 1,
        "copy_out_of_bounds": 1,
        "source_overwritten": 1,
    },
    4: {"missing_warp_barrier_after_wait": 1},
}
WITH_GRID_BARRIER = {"block_skips_grid_barrier", "missing_grid_barrier"}
CASES = [
    (name, cooperative) for name in FAULTS for cooperative in (0, 1) if cooperative or name not in WITH_GRID_BARRIER
]


def planted_lines():
    """The places marked ``// FAULT: name`` as reports spell them, by name."""
    places = {}
    for source in KERNELS:
        for number, line in enumerate(Path(source).read_text().splitlines(), 1):
            if marked := re.search(r"// FAULT: (\w+)", line):
                places.setdefault(marked[1], []).append(f"{source.name}:{number}")
    return places


class Arrays:
    """What a twin reads and writes."""

    def __init__(self):
        self.input = np.arange(1, COUNT + 1, dtype=np.float32)
        self.output = np.full(COUNT, np.nan, np.float32)
        self.workspace = np.full(COUNT, np.nan, np.float32)

    def run(self, machine, name, faulty, cooperative):
        machine.run("run_twin", name, int(faulty), cooperative, self.input, self.output, self.workspace)
        return self


def test_every_planted_fault_is_tried():
    assert planted_lines().keys() == FAULTS.keys()


@pytest.mark.parametrize(("name", "cooperative"), CASES)
def test_fault_is_reported(emulator, seed, name, cooperative):
    arrays = Arrays()
    with pytest.raises(KernelError, match=FAULTS[name]) as raised:
        arrays.run(emulator, name, True, cooperative)
    assert re.search(rf"; kernel {name}, phase \d, thread \d+ of block [01], ", str(raised.value))
    assert str(raised.value).endswith(tuple(planted_lines()[name]))
    assert np.isnan([arrays.output, arrays.workspace]).all()  # the host's memory is as it was


@pytest.mark.parametrize(("name", "cooperative"), CASES)
def test_correct_twin_runs(emulator, seed, name, cooperative):
    output = Arrays().run(emulator, name, False, cooperative).output
    assert not np.isnan(output).any()
    for length, mirrored in MIRRORED.items():
        if name in mirrored:
            reverse = Arrays().input.reshape(-1, length)[:, ::-1].reshape(-1)
            np.testing.assert_array_equal(output, mirrored[name] * reverse)
    emulator.set_seed(0)
    np.testing.assert_array_equal(output, Arrays().run(emulator, name, False, cooperative).output)


@pytest.mark.covers("cooperative")
@pytest.mark.parametrize(("name", "cooperative"), CASES)
def test_correct_twin_agrees_with_gpu(emulator, gpu, name, cooperative):
    emulated = Arrays().run(emulator, name, False, cooperative).output
    np.testing.assert_array_equal(emulated, Arrays().run(gpu, name, False, cooperative).output)


def test_only_what_was_written_is_copied_back(emulator):
    workspace = Arrays().run(emulator, "racing_blocks", False, 0).workspace
    assert workspace[1] == 1
    assert np.isnan(np.delete(workspace, 1)).all()


def test_launches_go_on_after_a_fault(emulator):
    for name in ("early_return", "missing_wait", "racing_blocks"):
        with pytest.raises(KernelError):
            Arrays().run(emulator, name, True, 0)
        Arrays().run(emulator, name, False, 0)


def test_seed_decides_the_order_of_threads(emulator):
    def report(seed):
        emulator.set_seed(seed)
        with pytest.raises(KernelError) as raised:
            Arrays().run(emulator, "two_writers", True, 0)
        emulator.set_seed(0)
        return str(raised.value)

    assert len({report(seed) for seed in range(8)}) > 4
    assert report(3) == report(3)


def test_grid_barrier_needs_a_cooperative_launch(emulator):
    with pytest.raises(KernelError, match="grid_sync: the launch is not cooperative"):
        Arrays().run(emulator, "missing_grid_barrier", False, 0)


def test_cooperative_blocks_must_be_resident(emulator):
    values = np.ones(8, np.float32)
    with pytest.raises(KernelError, match=r"launch of copy_twice: .* resident"):
        emulator.run("run_copy_twice", values, values.copy(), 8, 9)


def test_aliased_buffers_are_refused_if_one_is_written(emulator):
    values = np.ones(16, np.float32)
    with pytest.raises(KernelError, match="aliased buffers: from and to overlap"):
        emulator.run("run_copy_twice", values, values[4:], 8, 1)


def test_misaligned_buffer_stays_misaligned(emulator):
    floats = np.ones(4 * COUNT + 1, np.uint8)[1:].view(np.float32)
    with pytest.raises(KernelError, match=r"misaligned: read of bytes \[\d+, \d+\) of buffer from"):
        emulator.run("bits_and_back", floats, np.zeros(COUNT, np.float32), COUNT)
