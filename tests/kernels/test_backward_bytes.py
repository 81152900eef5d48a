"""What one backward of each ResNet tail moves, as the emulator counts it, against the design and the tiles' formula.

Channels are the real ones; rows are few. All gradients are asked for, those of frozen norms ("evaluation") too.
In ResNet-50's last stage W Cov and Q would take the emulator minutes: there moments have an eighth of the output
channels, and all input channels.
"""

from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest
import torch
from emulated import only_emulated
from gradient_formula import GradientSizes
from resnet_tails import (
    BEHIND_CONV,
    SHAPES,
    STATISTICS,
    cases,
    each_mode,
    each_real_shape,
    is_weight,
    sizes_of,
    touched,
)
from tile_formula import as_expected

from benchmarks.emulator import Launch, is_activation, recorded_launches
from benchmarks.tail_shapes import RESNET50, TailShape
from benchmarks.tails import Tail, counted_bytes
from fused_resnet import use_backend


def correction_products(shape: TailShape) -> int:
    """Multiply-adds of W Cov, and as many of Q, with moments."""
    return shape.channels * sum(k**2 for k in shape.projections)


def shape_of(name: str, mode: str) -> TailShape:
    shape = SHAPES[name]
    reduced = mode == "training" and correction_products(shape) > 5e8
    return replace(shape, channels=shape.channels // 8) if reduced else shape


def launched(shape: TailShape, mode: str) -> tuple[Launch, ...]:
    """The launches of one backward."""
    tail = Tail(shape, torch.bfloat16).train(mode != "evaluation")
    inputs = tail.inputs("cpu", torch.bfloat16)
    for x in inputs:
        x.requires_grad_(True)
    with use_backend("emulated"):
        y = tail.fused(*inputs)
        with recorded_launches() as launches:
            tail.gradients(y, inputs, torch.randn_like(y))
    return tuple(launches)


@cache
def counted(name: str, mode: str) -> tuple[Launch, ...]:
    return launched(shape_of(name, mode), mode)


def phases_of(name: str, mode: str):
    """Each phase: its name, the buffers that were counted, and what the formula says of the tail."""
    (launch,) = counted(name, mode)
    sizes = GradientSizes(sizes_of(shape_of(name, mode), mode))
    for phase, found in zip(sizes.phases, launch.phases, strict=True):
        yield phase, found.buffers, sizes


def check_launch(name: str, mode: str) -> None:
    assert [(launch.kernel, launch.cooperative) for launch in counted(name, mode)] == [("backward", True)]


def check_design(name: str, mode: str) -> None:
    for phase, buffers, sizes in phases_of(name, mode):
        found = touched(buffers, is_activation).values()
        distinct = sum(traffic.distinct_read + traffic.distinct_written for traffic in found)
        assert distinct <= 1.15 * sizes.distinct(phase), phase


def check_activations(name: str, mode: str) -> None:
    for phase, buffers, sizes in phases_of(name, mode):
        assert touched(buffers, is_activation) == touched(sizes.buffers(phase), is_activation), phase


def check_weights(name: str, mode: str) -> None:
    for phase, buffers, sizes in phases_of(name, mode):
        assert touched(buffers, is_weight) == touched(sizes.buffers(phase), is_weight), phase


def check_workspace(name: str, mode: str) -> None:
    for phase, buffers, sizes in phases_of(name, mode):
        expected = {name: traffic for name, traffic in sizes.buffers(phase).items() if not is_activation(name)}
        unexpected = {name: buffers[name] for name in expected if not as_expected(buffers[name], expected[name])}
        assert not unexpected, (phase, expected)


def takes_long(name: str, mode: str) -> bool:
    """Several seconds in the emulator."""
    shape = SHAPES[name]
    return shape.channels * sum(shape.projections) > 2e6 or (mode == "training" and correction_products(shape) > 5e7)


each_case = cases(lambda *case: not takes_long(*case))
each_long_case = cases(takes_long)


CHECKS = {
    "one launch": check_launch,
    "no more of the activations than designed": check_design,
    "activations as the tiles ask for them": check_activations,
    "weights as the tiles ask for them": check_weights,
    "workspace as the tiles ask for it": check_workspace,
}


@each_case
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_backward_moves_what_it_should(name, mode, check):
    check(name, mode)


@pytest.mark.slow
@each_long_case
def test_backward_of_the_most_channels_moves_what_it_should(name, mode):
    """All checks in one test: launched once for all, wherever the tests run."""
    for check in CHECKS.values():
        check(name, mode)


def multiply_adds_of_rows(shape, mode: str) -> int:
    """The multiply-adds of all phases that work on activations, not on matrices of channels alone."""
    names, phases = GradientSizes(sizes_of(shape, mode)).phases, launched(shape, mode)[0].phases
    return sum(p.work.multiply_adds for name, p in zip(names, phases, strict=True) if name != "matrices")


@only_emulated
def test_moments_add_one_product_of_the_input_with_a_square_matrix_twice(backend):
    """To what a frozen norm has: x Q, as Q is the sum of two matrices."""
    shape = TailShape("net", "whole tiles", 1, 8, inner=128, channels=256, batch=2)
    products = {mode: multiply_adds_of_rows(shape, mode) for mode in STATISTICS}
    assert products["training"] - products["evaluation"] == 2 * shape.rows * 128**2


MASK = Fraction(1, 16)


def totals(shapes, mode: str) -> dict[str, Fraction]:
    return {shape.block: GradientSizes(sizes_of(shape, mode)).in_outputs() for shape in shapes}


@only_emulated
@pytest.mark.parametrize(("inner", "times"), [(64, 1), (72, 2)])
def test_two_narrow_projections_read_the_gradient_once(inner, times, backend):
    """Both products of g^T x are in one tile, and both dx: what comes from dy is asked for once, not once for each."""
    shape = TailShape("net", "layer1.0", 1, 16, inner, 256, before=64, batch=1)
    (launch,) = launched(shape, "training")
    reduce, apply = launch.phases[0].buffers, launch.phases[-1].buffers
    y = shape.rows * shape.channels * 2
    assert [phase["dy"].requested_read for phase in (reduce, apply)] == [times * y] * 2


def test_backward_training_totals_in_units_of_the_output():
    """With moments. Identity: dy, the mask and x (a quarter) read, g written; g and x read, dx written."""
    # Two projections: dy, the mask and both x twice, both dx. Both inputs are a quarter in layer1.0. Behind it the
    # shortcut's is a half where it is read, and its gradient, which has four pixels for each of these, two; its two
    # columns of tiles and more have g written, and read in the place of dy and the mask.
    projection = Fraction(27, 4) + MASK
    expected = {shape.block: Fraction(15, 4) + MASK if shape.before is None else projection for shape in RESNET50}
    assert totals(RESNET50, "training") == expected | {"layer1.0": Fraction(7, 2) + 2 * MASK}
    expected = {shape.block: 6 + MASK if shape.before is None else 9 + MASK for shape in RESNET50}
    assert totals(BEHIND_CONV, "training") == expected | {"layer1.0": Fraction(23, 4) + 2 * MASK}


def test_backward_totals_of_frozen_norms_in_units_of_the_output():
    """No product with x, and no z, where dx is written."""
    identity, projection = Fraction(7, 2) + MASK, 6 + MASK
    expected = {shape.block: identity if shape.before is None else projection for shape in RESNET50}
    assert totals(RESNET50, "evaluation") == expected | {"layer1.0": 3 + 2 * MASK}
    expected = {shape.block: 5 + MASK if shape.before is None else Fraction(15, 2) + MASK for shape in RESNET50}
    assert totals(BEHIND_CONV, "evaluation") == expected | {"layer1.0": Fraction(9, 2) + 2 * MASK}


@pytest.mark.covers("mode")
@each_mode
@each_real_shape
def test_backward_benchmarks_count_the_same_bytes(shape, mode):
    forward = sizes_of(shape, mode)
    backward = GradientSizes(forward)
    both = sum(map(forward.distinct, forward.phases)) + sum(map(backward.distinct, backward.phases))
    both += forward.rows * forward.channels // 8  # the mask that forward leaves
    assert counted_bytes(shape, mode != "evaluation", 2, backward=True) == both
