"""The model of time: close to what was measured, and made of amounts that the emulator would count at full size."""

import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from emulated import only_emulated

from benchmarks import model
from benchmarks.__main__ import main
from benchmarks.model import counts, fit, gpu_time
from benchmarks.model.counting import Amounts, unevenness
from benchmarks.model.instructions import LOAD_SLOTS, SCATTERED_SLOTS, STAGE_SLOTS, STORE_SLOTS, stage_slots
from benchmarks.result import read
from benchmarks.tail_shapes import RESNET50
from fused_resnet.backends.kernels import loading
from fused_resnet.cost import cost_model
from kernel_resources import stages
from kernel_resources.binary import ToolMissingError, find_tool

ROOT = Path(__file__).parents[2]
GPU = gpu_time.read()
OBSERVED = fit.observed(read(model.MEASURED), counts.read(counts.THEN))
NOTHING = Amounts(**dict.fromkeys(Amounts.__dataclass_fields__, 0.0))
# Of one of ResNet-50's tails, with channels that the emulator multiplies in seconds.
SMALL = replace(RESNET50[2], inner=64, before=128, channels=256, size=16)


def test_four_of_five_measured_phases_are_met_within_a_quarter():
    """The constants were fitted to these phases; ``--held-out`` tells of others."""
    close = [abs(gpu_time.seconds(of.amounts, GPU) / of.seconds - 1) <= 0.25 for of in OBSERVED]
    assert len(close) > 180
    assert sum(close) >= 0.8 * len(close)


def test_committed_result_is_what_the_command_gives(tmp_path):
    assert main(["model", "--json", str(tmp_path / "model.json")]) == 0
    again, committed = read(tmp_path / "model.json"), read(model.MEASURED.with_name("model-h100.json"))
    assert (again.rows, again.notes) == (committed.rows, committed.notes)


def test_every_measured_phase_is_counted_and_for_todays_kernels_where_there_still_is_its_way():
    now, then = counts.read(counts.NOW), counts.read(counts.THEN)
    assert now.keys() == {key for key in then if key[1] != "materialise"}
    assert len(OBSERVED) == len(then)


@pytest.mark.parametrize(
    ("amounts", "limit", "seconds"),
    [
        ({"distinct": 1e9, "requested": 1.0}, "memory", 1e9 / GPU.memory),
        ({"requested": 1e12}, "L2", 1e12 / GPU.cache),
        ({"wavefronts": 1e9}, "shared", 1e9 / (GPU.multiprocessors * GPU.clock_hz)),
        ({"operations": 1e12}, "tensor", 1e12 / GPU.operations),
        ({"rounds": 264e3}, "latency", 1e3 * GPU.latency),
        ({}, "launch", 0.0),
    ],
)
def test_a_phase_with_one_limit_takes_that_and_its_launch(amounts, limit, seconds):
    phase = replace(NOTHING, items=264.0, slots=264.0, uneven=1.0, uneven_multiprocessors=1.0, **amounts)
    assert gpu_time.limit(phase, GPU) == limit
    assert gpu_time.seconds(phase, GPU) == pytest.approx(seconds + GPU.launch, rel=0.03)


def test_more_work_of_any_kind_takes_no_less_time():
    phase = counts.read(counts.NOW)["resnet50 layer2.0", "moments", "forward apply"]
    for name in asdict(phase).keys() - {"items", "slots", "longest", "under_way"}:
        more = replace(phase, **{name: 2 * getattr(phase, name) + 1})
        assert gpu_time.seconds(more, GPU) >= gpu_time.seconds(phase, GPU), name


def test_unequal_blocks_are_as_slow_as_the_busiest():
    assert unevenness(264, 264) == 1
    assert unevenness(265, 264) == pytest.approx(2 * 264 / 265)


def test_a_fit_finds_constants_that_made_the_times():
    """Up to what these phases do not depend on."""
    made = [fit.Observed(of.amounts, gpu_time.seconds(of.amounts, GPU)) for of in OBSERVED[::5]]
    found = fit.fitted(made, fit.ceilings(read(model.MEASURED)), generations=25)
    errors = [abs(gpu_time.seconds(of.amounts, found) / of.seconds - 1) for of in made]
    assert sorted(errors)[len(errors) // 2] < 0.1


@pytest.mark.slow
@only_emulated
def test_amounts_of_many_rows_follow_from_those_of_few(backend):
    """The emulator can count 40 images both ways: extrapolated from few, and all of them."""
    counter = counts.counter(replace(SMALL, batch=40), "moments")
    counter = replace(counter, slots=4, multiprocessors=2)
    exact = ("distinct", "requested", "operations", "wavefronts", "instructions")
    for phase, expected in counter.counted():
        if phase.endswith("finish"):
            continue
        actual = counter.run(counter.shape, phase, counter.slots)
        for name in exact:
            assert getattr(expected, name) == pytest.approx(getattr(actual, name), rel=0.03), (phase, name)


def test_the_choice_takes_its_rates_from_the_model():
    assert json.loads(cost_model.CALIBRATION.read_text())["kernels"] == "modelled"


def test_instructions_of_a_stage_are_those_of_the_built_kernels():
    module, reason = loading.load("_C")
    if module is None or "9.0" not in loading.built_with("_C")["architectures"]:
        pytest.skip(f"there are no kernels for 9.0 to look at: {reason}")
    try:
        built = stages.collect(Path(module.__file__), "9.0")
    except ToolMissingError as error:
        pytest.skip(str(error))
    by_name = {name: count for (_, name), count in built.items()}
    assert {name: by_name[name] for name in STAGE_SLOTS} == pytest.approx(STAGE_SLOTS, abs=5)
    stores = {
        "forward apply": (by_name["the same, and y stored with its mask"] - by_name["what is added, two stages"]) / 16,
        "backward apply": (by_name["g W, and dx stored"] - by_name["g W, two stages"]) / 8,
    }
    assert stores == pytest.approx(STORE_SLOTS, abs=1)
    loads = {
        "forward moments": by_name["eight vectors into sums"] / 8,
        "forward apply": (by_name["three vectors of y, of two sources"] - 6 * STORE_SLOTS["forward apply"]) / 6,
        "backward reduce": by_name["three vectors of g and z into sums"] / 9,
        "backward apply": (by_name["three vectors of dz"] - 3 * STORE_SLOTS["backward apply"]) / 9,
        "forward finish": by_name["nine partial sums of x^T x"] / 9,
        "backward finish": by_name["nine partial sums of g^T x"] / 9,
    }
    assert loads == pytest.approx(LOAD_SLOTS, abs=1)


def test_instructions_of_a_stage_are_averages_over_a_phase():
    """Of x^T x, 3 tiles of 128 channels have 3 on the diagonal and 3 below; one tile of g^T x sums g, too."""
    shape, of = replace(SMALL, stride=1), STAGE_SLOTS
    pair, diagonal = of["x^T x"], of["x^T x, diagonal"]
    assert stage_slots("forward moments", replace(shape, inner=128, before=None)) == diagonal
    assert stage_slots("forward moments", replace(shape, inner=384, before=None)) == (pair + diagonal) / 2
    both = replace(shape, inner=64, before=384)
    assert stage_slots("forward moments", both) == pytest.approx((3 * pair + 4 * diagonal) / 7)
    assert stage_slots("backward reduce", both) == (3 * of["g^T x"] + of["g^T x, with sums of g"]) / 4
    halves = replace(shape, inner=shape.channels, before=None)
    plain, masking = of["g W, two stages"] / 2, of["g W, g masked, two stages"] / 2
    assert stage_slots("backward apply", halves) == plain
    assert stage_slots("backward apply", halves, masked=True) == (plain + masking) / 2


def test_phases_of_one_launch_share_it():
    seconds = gpu_time.launch_seconds([1.0, 2.0, 3.0], GPU)
    assert seconds == pytest.approx(6.0 - 2 * (GPU.launch - GPU.barrier))


PROBE = """
#include <forward.cuh>
namespace fused_resnet {
__global__ void probe_kernel(const __grid_constant__ Tail tail, int row) {
  device::copy_async_16(0, row_pointer<BFloat16>(tail, tail.branches[0].x, row), true);
}
}
"""


def test_instructions_that_find_a_scattered_row_are_those_of_the_cubin(tmp_path):
    """From the branch that dense rows take, to where both meet."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not in PATH")
    try:
        nvdisasm = find_tool("nvdisasm")
    except ToolMissingError as error:
        pytest.skip(str(error))
    source, cubin = tmp_path / "probe.cu", tmp_path / "probe.cubin"
    source.write_text(PROBE)
    flags = ["-std=c++20", "-O3", "-fmad=false", "-arch=sm_90", "-I", "csrc", "-cubin"]
    subprocess.run([nvcc, *flags, str(source), "-o", str(cubin)], check=True, capture_output=True, cwd=ROOT)
    code = subprocess.run([nvdisasm, "--print-code", cubin], check=True, capture_output=True, text=True).stdout
    # Between "@P0 BRA `(.L_x_0)", which rows take that are dense, and the label.
    apart = re.search(r"@!?P\d BRA `\((\.L_x_\d+)\)(.*?)^\1:$", code, re.MULTILINE | re.DOTALL)
    assert apart is not None
    count = len(re.findall(r"^\s+/\*[0-9a-f]{4}\*/", apart[2], re.MULTILINE))
    assert count == pytest.approx(SCATTERED_SLOTS, abs=3)
