"""What one forward of each ResNet tail moves, as the emulator counts it, against the design and the tiles' formula.

Channels are the real ones; rows are few.
"""

from fractions import Fraction
from functools import cache

import pytest
import torch
from resnet_tails import BEHIND_CONV, SHAPES, cases, each_mode, each_real_shape, is_weight, sizes_of, touched
from tile_formula import as_expected

from benchmarks.emulator import Launch, is_activation, recorded_launches
from benchmarks.tail_shapes import RESNET50
from benchmarks.tails import Tail, counted_bytes
from fused_resnet import use_backend


@cache
def counted(name: str, mode: str) -> tuple[Launch, ...]:
    """The launches of one forward."""
    tail = Tail(SHAPES[name], torch.bfloat16).train(mode != "evaluation")
    x, before = tail.inputs("cpu", torch.bfloat16)
    with torch.no_grad(), use_backend("emulated"), recorded_launches() as launches:
        tail.fused(x, before)
    return tuple(launches)


def phases_of(name: str, mode: str) -> dict:
    """The buffers of each phase."""
    (launch,) = counted(name, mode)
    phases = sizes_of(SHAPES[name], mode).phases
    return dict(zip(phases, (phase.buffers for phase in launch.phases), strict=True))


def check_launch(name: str, mode: str) -> None:
    expected = "apply" if mode == "evaluation" else "forward"
    assert [launch.kernel for launch in counted(name, mode)] == [expected]


def check_design(name: str, mode: str) -> None:
    sizes = sizes_of(SHAPES[name], mode)
    for phase, buffers in phases_of(name, mode).items():
        found = touched(buffers, is_activation).values()
        distinct = sum(traffic.distinct_read + traffic.distinct_written for traffic in found)
        assert distinct <= 1.15 * sizes.distinct(phase), phase


def check_activations(name: str, mode: str) -> None:
    sizes = sizes_of(SHAPES[name], mode)
    for phase, buffers in phases_of(name, mode).items():
        assert touched(buffers, is_activation) == sizes.activations(phase), phase


def check_weights(name: str, mode: str) -> None:
    sizes = sizes_of(SHAPES[name], mode)
    for phase, buffers in phases_of(name, mode).items():
        assert touched(buffers, is_weight) == sizes.weights(phase), phase


def check_workspace(name: str, mode: str) -> None:
    sizes = sizes_of(SHAPES[name], mode)
    for phase, buffers in phases_of(name, mode).items():
        expected = sizes.workspace(phase)
        unexpected = {name: buffers[name] for name in expected if not as_expected(buffers[name], expected[name])}
        assert not unexpected, (phase, expected)


def takes_half_a_minute(name: str, mode: str) -> bool:
    """W Cov W^T of 1024 input and 2048 output channels, in the emulator."""
    return mode == "training" and (SHAPES[name].before or 0) > 512


each_case = cases(lambda *case: not takes_half_a_minute(*case))
each_long_case = cases(takes_half_a_minute)


CHECKS = {
    "one launch": check_launch,
    "no more of the activations than designed": check_design,
    "activations as the tiles ask for them": check_activations,
    "weights as the tiles ask for them": check_weights,
    "workspace as the tiles ask for it": check_workspace,
}


@each_case
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_forward_moves_what_it_should(name, mode, check):
    check(name, mode)


@pytest.mark.slow
@each_long_case
def test_forward_of_the_most_channels_moves_what_it_should(name, mode):
    """All checks in one test: launched once for all, wherever the tests run."""
    for check in CHECKS.values():
        check(name, mode)


def test_forward_training_totals_in_units_of_the_output():
    """With moments; where conv3 is outside, cuDNN reads its input (a quarter of y) and writes its output besides."""
    inside = {shape.block: sizes_of(shape, "training").in_outputs() for shape in RESNET50}
    outside = {shape.block: sizes_of(shape, "training").in_outputs() + Fraction(5, 4) for shape in BEHIND_CONV}
    assert inside == {shape.block: Fraction(2 if shape.block == "layer1.0" else Fraction(5, 2)) for shape in RESNET50}
    assert outside == {shape.block: Fraction(19 if shape.block == "layer1.0" else 21, 4) for shape in RESNET50}


@pytest.mark.covers("mode")
@each_mode
@each_real_shape
def test_forward_benchmarks_count_the_same_bytes(shape, mode):
    sizes = sizes_of(shape, mode)
    assert counted_bytes(shape, mode != "evaluation", 2) == sum(map(sizes.distinct, sizes.phases))
