"""What is chosen by time: on the modelled GPU hardly ever slower than the best, and never than PyTorch."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from emulated import on_kernels
from samples import SAMPLES, build

import fused_resnet
from benchmarks import calibrate
from benchmarks.result import read
from fused_resnet.cost import choice, cost_model
from fused_resnet.cost.cost_model import BranchProblem, Machine, TailProblem
from fused_resnet.operation.branches import Projection

MEASURED = calibrate.Measurements(read(calibrate.RESULT), calibrate.launches(read(calibrate.MODELLED)))
RATES = cost_model.calibrated()
CHOICES = [calibrate.choice_for(tail, MEASURED, RATES) for tail in MEASURED.tails]
# ResNet-50's, 256 images: many rows of few channels, and few of many.
EARLY = TailProblem(
    256 * 56**2,
    256,
    (BranchProblem("projection", 64, 1, "training"), BranchProblem("direct", 256, 1, "none")),
    2,
    "half",
    True,
)
LATE = replace(
    EARLY, rows=256 * 7**2, channels=2048, branches=(BranchProblem("projection", 512, 1, "training"), EARLY.branches[1])
)


def test_the_rates_are_those_of_the_results():
    """``python -m benchmarks calibrate`` would write the same file."""
    assert json.loads(cost_model.CALIBRATION.read_text()) == calibrate.calibrate(MEASURED, calibrate.RESULT.name)


def test_no_tail_takes_longer_than_by_pytorch():
    assert [choice.tail for choice in CHOICES if choice.seconds > choice.eager] == []


def test_every_tail_is_within_a_tenth_of_the_best_that_is_known():
    assert [choice.tail for choice in CHOICES if choice.seconds > 1.1 * choice.best] == []


def test_times_of_most_of_the_choices_are_given():
    assert sum(chosen.given for chosen in CHOICES) >= 10


def test_the_network_takes_two_thirds_of_what_it_takes_by_pytorch():
    blocks = dict(zip(MEASURED.tails, (1, 2, 1, 3, 1, 5, 1, 2), strict=False))  # ResNet-50's
    mine, eager = (sum(getattr(c, of) * blocks.get(c.tail, 0) for c in CHOICES) for of in ("seconds", "eager"))
    assert mine < 0.67 * eager


def test_early_stages_take_moments_and_late_ones_the_library():
    assert cost_model.fastest(EARLY, RATES, plain_too=True) == ("moments", None)
    assert cost_model.fastest(LATE, RATES, plain_too=True) == ("library", None)


def test_a_tail_that_every_way_loses_is_left_to_pytorch_unless_kernels_are_asked_for():
    small = replace(
        LATE, rows=1024, channels=512, branches=(BranchProblem("direct", 512, 1, "training"), EARLY.branches[1])
    )
    assert cost_model.fastest(small, RATES, plain_too=True) is None
    assert cost_model.fastest(small, RATES, plain_too=False) == (None, None)


def test_a_gpu_of_half_the_size_takes_twice_as_long_for_what_is_not_fixed():
    machine = RATES.measured_on
    half = Machine(machine.multiprocessors // 2, machine.clock_hz, machine.memory_bytes_per_s / 2)
    smaller = cost_model.calibrated(half)
    amounts = {"apply bytes": 1e9, "apply operations": 1e12}
    assert smaller.seconds("kernel forward", amounts) == pytest.approx(2 * RATES.seconds("kernel forward", amounts))
    assert smaller.seconds("kernel forward", {"launch": 1}) == RATES.seconds("kernel forward", {"launch": 1})


def test_twice_the_rows_take_no_less_than_before():
    for problem in (EARLY, LATE):
        for ways in cost_model.ways_of(problem):
            larger = replace(problem, rows=2 * problem.rows)
            assert cost_model.seconds(larger, ways, RATES) > cost_model.seconds(problem, ways, RATES)


def test_a_gpu_is_described_by_its_driver(monkeypatch):
    h200 = SimpleNamespace(
        multi_processor_count=132, clock_rate=1_980_000, memory_clock_rate=3_201_000, memory_bus_width=6144
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: h200)
    machine = choice.machine_of(0)
    assert (machine.multiprocessors, machine.clock_hz) == (132, 1.98e9)
    assert machine.memory_bytes_per_s == pytest.approx(4.9e12, rel=0.01)
    h200.memory_clock_rate = 0
    assert choice.machine_of(0) == RATES.measured_on


@pytest.fixture
def modelled(monkeypatch):
    """As if the tensors' device were a GPU whose fastest ways are those that the test says."""

    def choose(ways):
        def answer(branches, backward):
            if ways is None:
                return None
            return [way == "library" and isinstance(b, Projection) for way, b in zip(ways, branches, strict=True)]

        monkeypatch.setattr(choice, "by_library", answer)

    return choose


@on_kernels
def test_a_tail_is_computed_as_it_was_chosen(modelled, device):
    tail, inputs, _ = build(SAMPLES["bottleneck projection"], device)
    expected = tail.fused(inputs)
    shown = {}
    for ways in (("moments", "library"), None):
        modelled(ways)
        assert torch.allclose(tail.fused(inputs), expected, rtol=1e-3, atol=1e-4)
        shown[ways] = str(fused_resnet.explain(_Model(tail), inputs["main.x"], inputs["shortcut.x"]))
    assert "PyTorch's own operations are faster" in shown[None]


class _Model(torch.nn.Module):
    def __init__(self, tail):
        super().__init__()
        self.tail = tail

    def forward(self, main, shortcut):
        return self.tail.fused({"main.x": main, "shortcut.x": shortcut})
