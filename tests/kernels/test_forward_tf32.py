"""float32 with ``torch.backends.cudnn.allow_tf32``: the operands of products are rounded to tf32, and nothing else is.

The results are those of the unfused operations in full float32 on operands that the test has rounded.
"""

import copy

import pytest
import torch
from compare import assert_accurate
from emulated import on_kernels
from kernel_samples import PROJECTING, WITHOUT_PROJECTIONS, each, each_mode
from samples import Branch, Sample, build
from tf32 import rounded, tf32


def with_rounded_operands(tail, inputs):
    """A copy of the tail, and inputs, in which all that products multiply is rounded."""
    tail, inputs = copy.deepcopy(tail), {name: x.detach() for name, x in inputs.items()}
    for name, branch in tail.named_children():
        if branch is not None and branch.conv is not None:
            branch.conv.weight.data = rounded(branch.conv.weight)
            inputs[f"{name}.x"] = rounded(inputs[f"{name}.x"])
    return tail, inputs


def results(tail, inputs, compute):
    tail = copy.deepcopy(tail)
    with torch.no_grad():
        found = {"output": compute(tail, inputs), **dict(tail.named_buffers())}
    return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}


def fused(tail, inputs, allowed):
    with tf32(allowed):
        return results(tail, inputs, lambda tail, inputs: tail.fused(inputs))


def unfused(tail, inputs):
    def compute(tail, inputs):
        z = tail.unfused(inputs)
        return z.relu() if tail.activation == "relu" else z

    with tf32(False):
        return results(tail, inputs, compute)


def assert_accurate_on(tail, inputs, tested):
    """The rule of `compare`, with the unfused operations on these numbers."""
    eager = unfused(tail, inputs)
    exact = unfused(copy.deepcopy(tail).double(), {name: x.double() for name, x in inputs.items()})
    for name, result in tested.items():
        # A mean is as accurate as the standard deviation it is of.
        variance = exact.get(name.replace("running_mean", "running_var"))
        scale = variance.sqrt().norm().item() if "running" in name else 0.0
        assert_accurate(name, result, eager[name], exact[name], scale)


def case(sample, mode, device):
    tail, inputs, _ = build(sample, device)
    tail.train(mode != "evaluation")
    return tail, {name: x.detach() for name, x in inputs.items()}


def test_forward_reference_rounds_to_the_nearest_and_ties_away():
    ulp = 2.0**-10
    x = torch.tensor([1.0, 1 + 0.49 * ulp, 1 + 0.5 * ulp, 1 + 1.5 * ulp, 2 - 0.5 * ulp, 3e-40])
    expected = torch.tensor([1.0, 1.0, 1 + ulp, 1 + 2 * ulp, 2.0, 3e-40])
    torch.testing.assert_close(rounded(x)[:-1], expected[:-1], rtol=0, atol=0)
    torch.testing.assert_close(rounded(-x)[:-1], -expected[:-1], rtol=0, atol=0)


@on_kernels
@each_mode
@each(PROJECTING)
def test_forward_with_tf32_rounds_what_is_multiplied(sample, mode, device):
    tail, inputs = case(sample, mode, device)
    tested = fused(tail, inputs, True)
    assert_accurate_on(*with_rounded_operands(tail, inputs), tested)


@on_kernels
@each_mode
@each(PROJECTING)
def test_forward_with_tf32_differs_from_full_float32(sample, mode, device):
    tail, inputs = case(sample, mode, device)
    tested, full = fused(tail, inputs, True)["output"], fused(tail, inputs, False)["output"]
    distance = (tested - full).norm() / full.norm()
    assert 2**-17 < distance < 2**-9


@on_kernels
@each_mode
@each(PROJECTING)
def test_forward_without_tf32_rounds_nothing(sample, mode, device):
    tail, inputs = case(sample, mode, device)
    assert_accurate_on(tail, inputs, fused(tail, inputs, False))


@on_kernels
@each_mode
@each(WITHOUT_PROJECTIONS)
def test_forward_with_tf32_rounds_no_direct_source(sample, mode, device):
    tail, inputs = case(sample, mode, device)
    tested = fused(tail, inputs, True)
    assert_accurate_on(tail, inputs, tested)


@on_kernels
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0, -3.5, 4.0, 6.0, 10.0, 30.0, -30.0])
def test_forward_with_tf32_of_a_large_mean(ratio, layout, device):
    """Statistics take x - shift, which must be exact: no further rounding of what is multiplied."""
    main, shortcut = (Branch("projection", "training", k, layout=layout) for k in (20, 36))
    tail, inputs = case(Sample(main, shortcut, shape=(4, 24, 11, 10)), "training", device)
    inputs = {name: x - 0.5 + ratio for name, x in inputs.items()}
    tested = fused(tail, inputs, True)
    assert_accurate_on(*with_rounded_operands(tail, inputs), tested)
