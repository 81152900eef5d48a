"""What the compiler made of the kernels fits the multiprocessors as it was meant to; nothing spills."""

import re
from pathlib import Path

import pytest

from fused_resnet.backends.kernels import loading
from kernel_resources.binary import Kernel, ToolMissingError, Usage, find_tool, kernel
from kernel_resources.occupancy import MULTIPROCESSORS, Needs, Occupancy, collect, problems
from kernel_resources.report import STAGED, TABLE, incomparable, table
from kernel_resources.stages import collect as collect_stages
from kernel_resources.stages import fewest_instructions, loads_under_way

FORWARD = "_ZN12fused_resnet14forward_kernelINS_12HalfProductsINS_8BFloat16EEELi1EEEvNS_11ForwardWorkE"
BACKWARD = "_ZN12fused_resnet15backward_kernelINS_15Float32ProductsELb0EEEvNS_12BackwardWorkE"
FACTS = {"nvcc": "13.0", "architectures": "8.0 9.0 12.0+PTX"}


def occupancy(architecture="8.0", registers=128, stack=0, local=0, static_shared=0, shared=72_704, blocks=2):
    usage = Usage(architecture, Kernel("forward", "tf32", (1,)), registers, stack, local, static_shared)
    return Occupancy(usage, Needs(256, shared, blocks))


@pytest.fixture(scope="module")
def kernels():
    """The kernels of the built module."""
    module, reason = loading.load("_C")
    if module is None:
        pytest.skip(f"there are no kernels to look at: _C is {reason}")
    try:
        return collect(Path(module.__file__), module.launch_needs())
    except ToolMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def stages():
    """The stages of the built module."""
    module, reason = loading.load("_C")
    if module is None or STAGED not in loading.built_with("_C")["architectures"]:
        pytest.skip(f"there are no kernels for {STAGED} to look at: {reason}")
    try:
        return collect_stages(Path(module.__file__), STAGED)
    except ToolMissingError as error:
        pytest.skip(str(error))


def test_built_kernels_do_not_spill_and_fit_as_often_as_claimed(kernels):
    assert "\n".join(problems(kernels)) == ""


def test_table_is_up_to_date(kernels, stages):
    facts, text = loading.built_with("_C"), TABLE.read_text()
    if reason := incomparable(facts, text):
        pytest.skip(f"docs/kernels.md cannot be compared: {reason}")
    assert table(kernels, stages, facts["nvcc"]) == text, "run `make resources`"


@pytest.mark.parametrize(
    ("function", "name", "family"),
    [
        (FORWARD, "forward<bfloat16, 1>", "forward<1>"),
        (FORWARD.replace("8BFloat16", "7Float16"), "forward<float16, 1>", "forward<1>"),
        (FORWARD.replace("12HalfProductsINS_8BFloat16EEE", "12Tf32ProductsE"), "forward<tf32, 1>", "forward<1>"),
        (
            BACKWARD,
            "backward<float32, 0>",
            "backward<0>",
        ),
    ],
)
def test_names_of_kernels(function, name, family):
    assert str(kernel(function)) == name
    assert kernel(function).family == family


def test_unknown_name_of_a_kernel_is_an_error():
    with pytest.raises(ValueError, match="_Z6kernelv"):
        kernel("_Z6kernelv")


@pytest.mark.parametrize(
    ("registers", "blocks"), [(32, 8), (64, 4), (65, 3), (80, 3), (81, 2), (128, 2), (129, 1), (255, 1)]
)
def test_blocks_by_registers(registers, blocks):
    """As in the CUDA occupancy calculator, for blocks of 8 warps: 8 registers a thread are the unit."""
    assert MULTIPROCESSORS["9.0"].blocks_by_registers(registers, 256) == blocks


@pytest.mark.parametrize(
    ("architecture", "shared", "blocks"),
    [
        ("8.0", 81 * 1024, 2),
        ("8.0", 81 * 1024 + 1, 1),
        ("9.0", 75 * 1024, 3),
        ("12.0", 49 * 1024, 2),
        ("12.0", 99 * 1024, 1),
    ],
)
def test_blocks_by_shared_memory(architecture, shared, blocks):
    """The system keeps 1 KiB of it a block."""
    assert MULTIPROCESSORS[architecture].blocks_by_shared(shared) == blocks


def test_fewer_blocks_are_claimed_where_shared_memory_allows_fewer():
    assert [occupancy(name).claim for name in ("8.0", "9.0", "12.0")] == [2, 2, 1]
    assert problems(occupancy(name) for name in ("8.0", "9.0", "12.0")) == []


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (occupancy(stack=8), "forward<tf32, 1> for 8.0 has a stack of 8 bytes"),
        (occupancy(local=16), "stack of 16 bytes"),
        (occupancy(registers=136), "136 registers .* 1 blocks fit .* 2 are claimed"),
        (occupancy(shared=164 * 1024, blocks=1), "0 blocks fit .* 1 are claimed"),
        (occupancy(static_shared=20_000), "92704 bytes of shared memory: 1 blocks fit"),
    ],
)
def test_broken_promises_are_told(kernel, message):
    (problem,) = problems([kernel])
    assert re.search(message, problem)


def test_shared_memory_of_the_system_is_not_counted_twice():
    assert occupancy("9.0", static_shared=1024).shared_bytes == occupancy("8.0").shared_bytes


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"architectures": "9.0"}, "built for 9.0, without 8.0, 12.0"),
        ({"nvcc": "13.1"}, "by nvcc 13.1, the table is of nvcc 13.0"),
    ],
)
def test_tables_of_other_builds_are_not_compared(facts, reason):
    found = incomparable({**FACTS, **facts}, "nvcc 13.0: another one")
    assert found == reason or reason in found


def test_tool_that_is_missing_is_named_with_its_wheel():
    with pytest.raises(ToolMissingError, match="pip install nvidia-cuda-no-such-tool"):
        find_tool("no-such-tool")


# A loop whose other branch is longer, around one that has to be taken twice.
LOOP = """
.L_x_0:
        /*0000*/                   DEPBAR.LE SB0, 0x2 ;
        /*0010*/              @!P1 BRA `(.L_x_1) ;
        /*0020*/                   LDG.E R0, desc[UR6][R2.64] ;
        /*0030*/                   STS [R1], R0 ;
        /*0040*/                   BRA `(.L_x_2) ;
.L_x_1:
        /*0050*/                   LDGSTS.E.BYPASS.128 [R1], desc[UR6][R2.64] ;
.L_x_2:
        /*0060*/                   LDGDEPBAR ;
.L_x_3:
        /*0070*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0080*/               @P0 BRA `(.L_x_3) ;
        /*0090*/               @P2 BRA `(.L_x_0) ;
        /*00a0*/                   EXIT ;
"""


@pytest.mark.parametrize(
    ("work", "instructions"),
    [
        ({"HMMA": 1}, 7),
        ({"HMMA": 2}, 9),
        ({"HMMA": 2, "LDGSTS": 1}, 9),
        ({"HMMA": 1, "STS": 1}, 9),
        ({"HMMA": 1, "STS": 1, "LDGSTS": 1}, None),  # no way does both
    ],
)
def test_instructions_of_a_stage_are_those_of_the_shortest_way_that_does_its_work(work, instructions):
    assert fewest_instructions(LOOP, work) == instructions


# The second loop looks into each load ahead of the next.
LOADS = """
.L_x_0:
        /*0000*/                   LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0010*/                   LDG.E.128 R8, desc[UR6][R4.64+0x10] ;
        /*0020*/                   FADD R12, R8, R9 ;
        /*0030*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0040*/                   LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0050*/                   LDG.E.128 R8, desc[UR6][R2.64+0x10] ;
        /*0060*/                   STG.E.128 desc[UR6][R2.64], R8 ;
        /*0070*/               @P0 BRA `(.L_x_1) ;
"""


@pytest.mark.parametrize(
    ("work", "loads"), [({"LDG": 2, "FADD": 1}, 1), ({"LDG": 2, "STG": 1}, 2), ({"LDG": 2, "FMUL": 1}, None)]
)
def test_a_load_is_under_way_until_its_registers_are_named(work, loads):
    assert loads_under_way(LOADS, work) == loads
