"""What the forward of a tail launches, and that nothing else runs beside it."""

import copy
from dataclasses import replace

import pytest
import torch
from compare import fused, unfused
from dispatched import Operators
from emulated import compiled_forward, on_kernels, only_emulated
from kernel_samples import EVALUATED, SMALL, TRAINING, each
from samples import SAMPLES, build

from benchmarks.emulator import recorded_launches

each_training_sample = each(TRAINING)
each_evaluated_sample = each(EVALUATED)


def launched(tail, inputs):
    with torch.no_grad(), recorded_launches() as launches:
        tail.fused(inputs)
    return [(launch.kernel, launch.cooperative) for launch in launches]


def operators(tail, inputs):
    with torch.no_grad(), Operators() as recorder:
        tail.fused(inputs)
    return recorder.calls


@only_emulated
@each_training_sample
def test_training_forward_is_one_cooperative_launch(sample, backend):
    tail, inputs, _ = build(sample)
    assert launched(tail, inputs) == [("forward", True)]


@only_emulated
@each_evaluated_sample
def test_evaluation_forward_is_one_ordinary_launch(sample, backend):
    tail, inputs, _ = build(sample)
    assert launched(tail.eval(), inputs) == [("apply", False)]


@pytest.mark.covers("device")
@on_kernels
@each_training_sample
def test_no_operator_runs_beside_the_training_forward(sample, device):
    tail, inputs, _ = build(sample, device)
    assert operators(tail, inputs) == []


@pytest.mark.covers("device")
@on_kernels
@each_evaluated_sample
def test_no_operator_runs_beside_the_evaluation_forward(sample, device):
    tail, inputs, _ = build(sample, device)
    assert operators(tail.eval(), inputs) == []


def empty_samples():
    """Without images, or without pixels, which PyTorch's convolutions refuse."""
    shapes = [(0, 24, 6, 5), (3, 24, 0, 5), (3, 24, 6, 0)]
    for name, sample in SAMPLES.items():
        sources = {branch.source for branch in (sample.main, sample.shortcut) if branch is not None}
        for shape in shapes[:1] if "projection" in sources else shapes:
            yield pytest.param(sample, shape, id=f"{name} {shape}")


@only_emulated
@pytest.mark.covers("shape")
@pytest.mark.parametrize(("sample", "shape"), list(empty_samples()))
def test_forward_of_no_pixels_launches_nothing_and_counts_as_pytorch_does(sample, shape, backend):
    case = build(replace(sample, shape=shape))
    with recorded_launches() as launches:
        tested = fused(*case)
    assert launches == []
    expected = unfused(*case)
    assert tested.output.shape == expected.output.shape
    for name, buffer in tested.buffers.items():
        torch.testing.assert_close(buffer, expected.buffers[name], rtol=0, atol=0, equal_nan=True, msg=name)


@only_emulated
def test_compiled_forward_of_no_pixels_launches_nothing(backend):
    tail, inputs, _ = build(replace(SAMPLES["bottleneck projection"], shape=(0, 24, 6, 5)))
    before = copy.deepcopy(tail.state_dict())
    with recorded_launches() as launches:
        compiled_forward(backend, tail, inputs)[0].run()
    assert launches == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in tail.state_dict().items())


@only_emulated
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each(SMALL)
def test_sanitize_smoke_forward(sample, dtype, backend):
    """What runs under the sanitizers: a tail of each kind, in training and evaluation."""
    tail, inputs, _ = build(sample.with_dtype(dtype))
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    with torch.no_grad():
        for training in (True, False):
            tail.train(training)
            expected = copy.deepcopy(tail).unfused(inputs).relu()
            torch.testing.assert_close(tail.fused(inputs), expected, rtol=tolerance, atol=tolerance)
