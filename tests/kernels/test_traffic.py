"""Counted bytes and operations of a tail and its kernels' names, against what the emulator counts of the launches."""

import re
from dataclasses import replace

import pytest
import torch
from emulated import backward_call, forward_call, module_of, only_emulated
from samples import FUSED, Branch, Sample, build

from benchmarks.emulator import is_activation, recorded_launches
from fused_resnet.backends.kernels import launches
from fused_resnet.cost import traffic
from fused_resnet.operation.computation import Needs, Tail, operands_of

INPUTS = ("main.x", "shortcut.x")
PARTS = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
PARAMETERS = tuple(f"{branch}.{part}" for branch in ("main", "shortcut") for part in PARTS)
FROZEN = {
    "nothing": (),
    "inputs": INPUTS,
    "parameters": PARAMETERS,
    "all but the main input": ("shortcut.x", *PARAMETERS),
    "all but the shortcut's input": ("main.x", *PARAMETERS),
    "all but weights": (*INPUTS, *(name for name in PARAMETERS if not name.endswith("conv.weight"))),
    "all but shifts": (*INPUTS, *(name for name in PARAMETERS if not name.endswith("norm.bias"))),
    "weights": tuple(name for name in PARAMETERS if name.endswith("conv.weight")),
}

each_sample = pytest.mark.parametrize("sample", FUSED.values(), ids=FUSED)


def branches_of(module, inputs):
    shortcut = None if module.shortcut is None else module.shortcut.described(inputs["shortcut.x"])
    return module.main.described(inputs["main.x"]), shortcut


def tail_of(sample, branches):
    return Tail(tuple(branch for branch in branches if branch is not None), sample.activation == "relu")


def launched(call):
    """The kernel's name, None where nothing was launched; distinct bytes of activations; multiply-adds of tiles."""
    with recorded_launches() as found:
        call.run()
    if not found:
        return None, 0, 0
    (launch,) = found
    touched = [traffic for phase in launch.phases for name, traffic in phase.buffers.items() if is_activation(name)]
    distinct = sum(of.distinct_read + of.distinct_written for of in touched)
    return launch.kernel, distinct, sum(phase.work.multiply_adds for phase in launch.phases)


def family(kernel):
    """A kernel's name without its number of products."""
    return kernel and kernel.partition("<")[0]


@only_emulated
@each_sample
@pytest.mark.parametrize("keep", [False, True])
def test_forward_is_counted_and_named_as_it_runs(sample, keep, backend):
    with torch.no_grad():
        module, inputs, _ = build(sample)
        branches = branches_of(module, inputs)
        tail = tail_of(sample, branches)
        kernel, distinct, _ = launched(forward_call(backend, *branches, sample.activation, keep=keep)[0])
    assert (family(launches.forward_kernel(tail)), traffic.forward(tail, keep=keep).bytes) == (kernel, distinct)


@only_emulated
@each_sample
@pytest.mark.parametrize("frozen", FROZEN.values(), ids=FROZEN)
def test_backward_is_counted_and_named_as_it_runs(sample, frozen, backend):
    assert_backward_is_counted_as_it_runs(replace(sample, frozen=frozenset(frozen)), backend)


@only_emulated
@pytest.mark.parametrize("shortcut", [None, Branch("direct", None)], ids=["no shortcut", "identity"])
def test_backward_without_any_work_launches_nothing(shortcut, backend):
    """As of a first block that is frozen all over, with an input that needs no gradient."""
    sample = Sample(Branch("projection", "training"), shortcut, frozen=frozenset((*INPUTS, *PARAMETERS)))
    assert assert_backward_is_counted_as_it_runs(sample, backend) is None


def assert_backward_is_counted_as_it_runs(sample, backend):
    """The kernel's family; None where nothing is launched."""
    module, inputs, dy = build(sample)
    branches = branches_of(module, inputs)
    tail = tail_of(sample, branches)
    kernel, distinct, _ = launched(backward_call(backend, *branches, sample.activation, dy)[0])
    needs = [Needs(*(t is not None and t.requires_grad for t in operands_of(branch))) for branch in tail.branches]
    assert (family(launches.backward_kernel(tail, needs)), traffic.backward(tail, needs).bytes) == (kernel, distinct)
    return kernel


def whole_tiles(norm):
    """A tail whose sizes are whole tiles: the tiles' multiply-adds are those of the matrices."""
    branches = Branch("projection", norm, in_channels=128), Branch("projection", norm, in_channels=128)
    return Sample(*branches, shape=(2, 256, 8, 8), dtype=torch.bfloat16)


@only_emulated
@pytest.mark.parametrize("norm", ["training", "eval", None])
def test_operations_are_two_for_each_multiply_add_of_the_launches(norm, backend):
    sample = whole_tiles(norm)
    module, inputs, dy = build(sample)
    branches = branches_of(module, inputs)
    needs = [Needs(*(t is not None for t in operands_of(branch))) for branch in branches]
    tail = tail_of(sample, branches)
    forward = launched(forward_call(backend, *branches, sample.activation)[0])[2]
    backward = launched(backward_call(backend, *branches, sample.activation, dy)[0])[2]
    # Products of matrices of channels take three for one: W Cov, in both directions, and three of the four tiles of Q,
    # which is symmetric. Of x^T x, a quarter of a tile on the diagonal is left out.
    of_moments = 2 if norm == "training" else 0
    matrices, left_out = of_moments * 256 * 128**2, of_moments * 128**3 // 4
    assert traffic.forward(tail, keep=True).operations == 2 * (forward + left_out - 2 * matrices)
    assert traffic.backward(tail, needs).operations == 2 * (backward - 2 * matrices - (9 - 4) * matrices // 4)


@only_emulated
def test_kernels_names_are_those_that_a_build_has(backend):
    known = module_of(backend).launch_needs()
    for sample in FUSED.values():
        module, inputs, _ = build(sample)
        tail = tail_of(sample, branches_of(module, inputs))
        needs = [Needs(*(t is not None for t in operands_of(branch))) for branch in tail.branches]
        names = launches.forward_kernel(tail), launches.backward_kernel(tail, needs)
        kernels = {re.sub("^(grad_)?apply", lambda phase: "backward" if phase[1] else "forward", of) for of in names}
        assert kernels <= known.keys()
