"""What the backward of a tail launches: one kernel for what is asked for, nothing for the rest, and nothing beside."""

import copy
from dataclasses import replace

import pytest
import torch
from compare import fused
from dispatched import Operators
from emulated import on_kernels, only_emulated
from kernel_samples import EVALUATED, SMALL, each
from samples import FUSED, SAMPLES, Branch, Sample, build

from benchmarks.emulator import recorded_launches

FUSED_EVALUATED = {name: sample for name, sample in FUSED.items() if name in EVALUATED}


def wanted(tail, inputs):
    return [t for t in (*inputs.values(), *tail.parameters()) if t.requires_grad]


def launches_of(tail, inputs, dy):
    """Those of the backward alone."""
    y = tail.fused(inputs)
    with recorded_launches() as launches:
        torch.autograd.grad(y, wanted(tail, inputs), dy)
    return launches


def kernels(launches):
    return [(launch.kernel, launch.cooperative) for launch in launches]


@only_emulated
@each(FUSED)
def test_backward_is_one_cooperative_launch(sample, backend):
    assert kernels(launches_of(*build(sample))) == [("backward", True)]


@only_emulated
@each(FUSED_EVALUATED)
def test_backward_of_evaluation_is_one_cooperative_launch(sample, backend):
    tail, inputs, dy = build(sample)
    assert kernels(launches_of(tail.eval(), inputs, dy)) == [("backward", True)]


@pytest.mark.covers("device")
@on_kernels
@each(FUSED)
def test_no_operator_runs_beside_the_backward(sample, device):
    tail, inputs, dy = build(sample, device)
    y = tail.fused(inputs)
    with Operators() as operators:
        torch.autograd.grad(y, wanted(tail, inputs), dy)
    assert operators.calls == []


@only_emulated
def test_backward_of_no_pixels_launches_nothing(backend):
    """pytorch PR 46572: an empty batch leaves a sticky error."""
    assert launches_of(*build(replace(SAMPLES["bottleneck projection"], shape=(0, 24, 6, 5)))) == []


class Passing(torch.autograd.Function):
    """Hands on its input, and no gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, _):
        return None


@pytest.mark.covers("backend")
@only_emulated
@each(FUSED)
def test_backward_without_a_gradient_launches_nothing(sample, backend):
    tail, inputs, dy = build(sample)
    y = Passing.apply(tail.fused(inputs))
    with recorded_launches() as launches:
        y.backward(dy)
    assert launches == []
    assert all(t.grad is None for t in (*inputs.values(), *tail.parameters()))


# What stands in the launch's record for each operand's gradient.
RESULTS = {
    "x": "dx",
    "conv.weight": "dweight",
    "conv.bias": "dbias",
    "norm.weight": "dgamma",
    "norm.bias": "dbeta",
}


def results_of(launches):
    """The gradients that are written, by operand."""
    written = {
        n for launch in launches for phase in launch.phases for n, t in phase.buffers.items() if t.distinct_written
    }
    each_operand = [(branch, *names) for branch in ("main", "shortcut") for names in RESULTS.items()]
    return {f"{branch}.{operand}" for branch, operand, result in each_operand if f"{branch}.{result}" in written}


def frozen_but(sample, wanted):
    """The sample with gradients of these operands alone."""
    tail, inputs, _ = build(sample)
    every = {*inputs, *(name for name, _ in tail.named_parameters())}
    return replace(sample, frozen=frozenset(every - set(wanted)))


@only_emulated
@pytest.mark.parametrize("name", ["bottleneck projection", "bottleneck evaluated", "convolution biases"])
def test_backward_writes_what_is_asked_for_alone(name, backend):
    tail, inputs, _ = build(SAMPLES[name])
    for operand in (*inputs, *(name for name, _ in tail.named_parameters())):
        launches = launches_of(*build(frozen_but(SAMPLES[name], [operand])))
        assert len(launches) == 1
        assert results_of(launches) == {operand}


def multiply_adds(sample):
    return sum(phase.work.multiply_adds for launch in launches_of(*build(sample)) for phase in launch.phases)


@only_emulated
@pytest.mark.parametrize("frozen", ["main.x", "shortcut.x", "shortcut.conv.weight"])
def test_backward_multiplies_less_for_the_frozen(frozen, backend):
    """A first block's input, and a projection that never trains, cost no product of their own."""
    sample = SAMPLES["bottleneck projection"].with_dtype(torch.bfloat16)  # products on tensor cores are counted
    # With moments, g^T x gives the norm's gradients, too: only without these is it the weight's alone.
    vectors = {f"shortcut.norm.{part}" for part in ("weight", "bias")} | {"shortcut.x"}
    less = frozenset(vectors if frozen == "shortcut.conv.weight" else ())
    assert multiply_adds(replace(sample, frozen=less | {frozen})) < multiply_adds(replace(sample, frozen=less))


@only_emulated
def test_blocks_share_the_gradients_of_unequal_branches(backend):
    """A block that kept to one branch's columns of dx would have the products alone, or no part in them."""
    direct, projection = Branch("direct", "training"), Branch("projection", "training", in_channels=256)
    branches = (replace(branch, layout="channels_last") for branch in (direct, projection))
    sample = Sample(*branches, shape=(8, 256, 16, 16), dtype=torch.bfloat16, gradient_layout="channels_last")
    (launch,) = launches_of(*build(sample))
    dx = launch.phases[-1].work
    assert dx.longest <= 1.1 * dx.rounds / launch.blocks


@only_emulated
def test_backward_of_a_frozen_branch_touches_none_of_its_tensors(backend):
    sample = SAMPLES["bottleneck projection"]
    of_main = [name for name, _ in build(sample)[0].main.named_parameters(prefix="main")]
    launches = launches_of(*build(frozen_but(sample, ["main.x", *of_main])))
    touched = {n for launch in launches for phase in launch.phases for n, t in phase.buffers.items() if any(t)}
    assert "main.x" in touched
    assert not any(name.startswith("shortcut.") for name in touched)


@only_emulated
def test_backward_of_an_identity_without_relu_hands_on_the_gradient_as_it_is(backend):
    tail, inputs, dy = build(SAMPLES["preactivation identity"])
    tail.requires_grad_(False)
    (identity,) = [x.detach().requires_grad_() for name, x in inputs.items() if name == "shortcut.x"]
    received = []
    identity.register_hook(received.append)
    y = tail.fused({"main.x": inputs["main.x"].detach(), "shortcut.x": identity})
    with recorded_launches() as launches:
        y.backward(dy)
    assert launches == []
    assert [gradient.data_ptr() for gradient in received] == [dy.data_ptr()]


@only_emulated
def test_backward_of_an_identity_behind_a_relu_is_one_ordinary_launch(backend):
    """Nothing but the masked gradient is asked for: no barrier is needed."""
    sample = frozen_but(SAMPLES["basic identity"], ["shortcut.x"])
    assert kernels(launches_of(*build(sample))) == [("grad_reduce", False)]


@on_kernels
def test_backward_may_run_many_times_in_a_row(device):
    """cub issue 369, cuml issue 458: a barrier of the grid that is reused, by grids of other sizes, races or hangs."""
    sizes = [(1, 5, 3, 2), (2, 150, 5, 5), (3, 24, 20, 20)]
    samples = [Sample(Branch("projection", "training", 9), Branch("direct", "training"), shape=size) for size in sizes]
    cases = [build(sample, device) for sample in samples]
    expected = [fused(*case).gradients for case in cases]
    outputs = [tail.fused(inputs) for tail, inputs, _ in cases]
    for _ in range(5):
        for (tail, inputs, dy), y, gradients in zip(cases, outputs, expected, strict=True):
            again = torch.autograd.grad(y, wanted(tail, inputs), dy, retain_graph=True)
            assert all(torch.equal(a, b) for a, b in zip(again, gradients.values(), strict=True))


@only_emulated
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each(SMALL)
def test_sanitize_smoke_backward(sample, dtype, backend):
    """What runs under the sanitizers: a tail of each kind, in training and evaluation."""
    tail, inputs, dy = build(sample.with_dtype(dtype))
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    for training in (True, False):
        tail.train(training)
        y = tail.fused(inputs)
        # Under the mask of the tested output: rounding may flip that of another.
        masked = dy * (y > 0)
        expected = torch.autograd.grad(copy.deepcopy(tail).unfused(inputs), list(inputs.values()), masked)
        for found, gradient in zip(torch.autograd.grad(y, list(inputs.values()), dy), expected, strict=True):
            assert (found - gradient).norm() <= tolerance * gradient.norm()
