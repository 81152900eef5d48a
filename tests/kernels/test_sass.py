"""The instructions of the built kernels: the fast path is made of those that make it fast."""

import functools
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from fused_resnet.backends.kernels import loading
from kernel_resources.binary import MATHS, ToolMissingError, disassembled, extract
from kernel_resources.stages import STREAMS, loads_under_way
from kernel_resources.ways import Code

TENSOR_CORES = {"tf32": "HMMA.1688.F32.TF32", "bfloat16": "HMMA.16816.F32.BF16", "float16": "HMMA.16816.F32"}
COPY_16_BYTES = "LDGSTS.E.BYPASS.128"
# All of them, and as many as there are.
COPIES_OF_4_BYTES = {"LDGSTS.E", "LDGSTS.E.ZFILL"}
LOAD_16_BYTES, STORE_16_BYTES = "LDG.E.128", "STG.E.128"
LOAD_MATRICES, LOAD_MATRICES_TRANSPOSED = "LDSM.16.M88.4", "LDSM.16.MT88.4"


@functools.cache
def code_of(architecture):
    """By kernel. Disassembling takes a second for each way of computing products."""
    module, reason = loading.load("_C")
    if module is None:
        pytest.skip(f"there are no kernels to look at: _C is {reason}")
    if architecture not in loading.built_with("_C")["architectures"].replace("+PTX", "").split():
        pytest.skip(f"the kernels are not built for {architecture}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            cubins = extract(Path(module.__file__), architecture, Path(folder))
            return {kernel: code for cubin in cubins for kernel, code in disassembled(cubin).items()}
    except ToolMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[pytest.param("8.0", marks=pytest.mark.slow), "9.0"])
def kernels(request):
    """The kernels of one architecture. The scope keeps its tests together, in one worker if possible."""
    found = {kernel: Code(code).names for kernel, code in code_of(request.param).items()}
    assert {kernel.math for kernel in found} == set(MATHS)
    return found


def expected(kernel):
    """What the fast path of a kernel consists of."""
    yield LOAD_16_BYTES  # of what is streamed
    yield STORE_16_BYTES
    if kernel == replace(kernel, kind="backward", numbers=(0,)):
        return  # the only one without products: forward takes those of x^T x
    yield COPY_16_BYTES
    yield TENSOR_CORES.get(kernel.math, "FFMA")
    if kernel.math in TENSOR_CORES and kernel != replace(kernel, kind="forward", numbers=(0,)):
        yield LOAD_MATRICES  # of products with weights
    if kernel.math in ("bfloat16", "float16"):
        yield LOAD_MATRICES_TRANSPOSED  # of x^T x, and g^T x


def test_fast_path_is_made_of_wide_copies_and_tensor_cores(kernels):
    missing = {str(kernel): set(expected(kernel)) - set(code) for kernel, code in kernels.items()}
    missing = {kernel: names for kernel, names in missing.items() if names}
    assert not missing


def found_in(kernels, pattern):
    """Which instructions begin like that, by kernel."""
    found = {str(kernel): {name for name in code if re.match(pattern, name)} for kernel, code in kernels.items()}
    return {kernel: names for kernel, names in found.items() if names}


def test_float32_is_left_to_the_cuda_cores(kernels):
    found = found_in({k: code for k, code in kernels.items() if k.math == "float32"}, r"HMMA|LDSM")
    assert not found


def test_tensor_cores_multiply_what_they_are_meant_to(kernels):
    """And not tf32 in half precision, or bfloat16 as float16; covariances are bfloat16 numbers, for their range."""
    for kernel, code in kernels.items():
        meant = {TENSOR_CORES.get(kernel.math), *([TENSOR_CORES["bfloat16"]] if kernel.math == "float16" else [])}
        assert {name for name in code if name.startswith("HMMA")} <= meant, kernel


@pytest.mark.parametrize("architecture", [pytest.param("8.0", marks=pytest.mark.slow), "9.0"])
def test_products_of_a_stage_are_products_for_the_most_part(architecture):
    """In half precision: beside what loads the operands. The code of a stage's products has no branch."""
    halves = {kernel: code for kernel, code in code_of(architecture).items() if kernel.math in ("bfloat16", "float16")}
    shares = [
        (str(kernel), sum(name.startswith("HMMA") for name in run) / len(run))
        for kernel, code in halves.items()
        for run in Code(code).straight_runs()
        if sum(name.startswith("HMMA") for name in run) == 32
    ]
    # Of each type: x^T x in tiles on the diagonal and below, in both kernels of forward, and x W^T; g^T x and g W.
    assert len(shares) >= 2 * 7
    assert all(share >= 0.4 for _, share in shares), shares


@pytest.mark.parametrize("architecture", [pytest.param("8.0", marks=pytest.mark.slow), "9.0"])
def test_loops_of_float32_products_are_multiply_adds_for_the_most_part(architecture):
    """A multiprocessor that issues as many instructions as it multiplies reaches that share of its peak."""
    shares = [
        (str(kernel), sum(name.startswith("FFMA") for name in loop) / len(loop))
        for kernel, code in code_of(architecture).items()
        for loop in Code(code).innermost_loops()
        if kernel.math == "float32" and sum(name.startswith("FFMA") for name in loop) >= 64
    ]
    assert len(shares) >= 8
    assert all(share >= 0.7 for _, share in shares), shares


@pytest.mark.parametrize("architecture", [pytest.param("8.0", marks=pytest.mark.slow), "9.0"])
def test_all_loads_of_a_batch_are_under_way_before_the_first_is_used(architecture):
    """A load that waits for the one before it leaves the memory idle."""
    batches = {
        (str(kernel), name): (loads_under_way(code, work), work["LDG.E.128"])
        for kernel, code in code_of(architecture).items()
        for (kind, number, name), work in STREAMS.items()
        if kernel == replace(kernel, kind=kind, numbers=(number,))
    }
    assert len(batches) == len(STREAMS) * len(MATHS)
    assert {batch for batch, (under_way, loads) in batches.items() if under_way != loads} == set()


def test_asynchronous_copies_are_of_16_bytes_but_those_of_masks_and_means(kernels):
    """Means of as many channels as there are, which forward's statistics take."""
    found = found_in(kernels, rf"LDGSTS(?!{re.escape(COPY_16_BYTES.removeprefix('LDGSTS'))}$)")
    small = {"backward<{}, 1>": COPIES_OF_4_BYTES, "forward<{}, 0>": {"LDGSTS.E"}, "forward<{}, 1>": {"LDGSTS.E"}}
    assert found == {name.format(math): of for name, of in small.items() for math in MATHS}


def test_no_kernel_uses_local_memory(kernels):
    found = found_in(kernels, r"(LDL|STL)\b")
    assert not found


def test_global_memory_is_accessed_as_such(kernels):
    """Not by instructions that have to find out which memory an address is in; the grid's barriers do."""
    found = found_in(kernels, r"(LD|ST)\.(?!E\.STRONG\.GPU$)")
    assert not found


def test_grid_barriers_integers_are_the_only_atomics(kernels):
    """Those of floating-point numbers, loops of compare and swap included, would make results differ between runs."""
    found = found_in(kernels, r"(ATOM[GS]?|RED[GS]?)\b(?!\.E\.ADD\.STRONG\.GPU$)")
    assert not found
