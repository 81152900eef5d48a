"""The backward by the kernels for any number of channels and any layout in memory, without a copy of an activation.

A gradient that comes in may have any layout (flash-attention issue 355, pytorch issue 1866: expanded ones); one that
goes out has its input's (pytorch issue 107199).
"""

import pytest
import torch
from compare import assert_as_accurate_as_unfused, assert_same_memory_format
from dispatched import Operators
from emulated import compiled_backward, on_kernels
from kernel_samples import (
    CHANNELS,
    each_dtype,
    each_mode,
    each_number_of_products,
    sample_of,
)
from memory_layouts import LAYOUTS
from samples import Branch, Sample, build

from fused_resnet.strategy import use_strategy

EXPANDED = {
    "of a sum": lambda dy: dy[:1, :1, :1, :1].expand(dy.shape),
    "of a mean over pixels": lambda dy: dy[:, :, :1, :1].expand(dy.shape),
}
GRADIENTS = {**LAYOUTS, **EXPANDED}

each_gradient_layout = pytest.mark.parametrize("layout", GRADIENTS)
each_format = pytest.mark.parametrize("inputs_in", ["NCHW", "channels_last"])


def case_of(sample, device, inputs_in, layout="NCHW", cut=0):
    """The sample with inputs, and an incoming gradient, laid out in these ways."""
    tail, inputs, dy = build(sample, device, cut)
    inputs = {name: LAYOUTS[inputs_in](x.detach()).requires_grad_() for name, x in inputs.items()}
    return tail, inputs, GRADIENTS[layout](dy)


def assert_backward_is_right(tail, inputs, dy):
    tested = assert_as_accurate_as_unfused(tail, inputs, dy)
    for name, x in inputs.items():
        assert_same_memory_format(tested.gradients[name], x)


@on_kernels
@each_mode
@each_dtype
@each_number_of_products
@pytest.mark.parametrize("channels", CHANNELS)
def test_backward_of_any_number_of_channels(channels, products, dtype, mode, device):
    """apex issue 1768, cudnn-frontend issue 133: 65 and 35 channels."""
    inputs_of = dict(zip(CHANNELS, reversed(CHANNELS), strict=True))
    layout = "channels_last" if dtype == torch.float16 else "NCHW"
    case = case_of(sample_of(products, channels, inputs_of[channels], dtype), device, layout, layout)
    case[0].train(mode != "evaluation")
    assert_backward_is_right(*case)


@on_kernels
@each_mode
def test_backward_of_one_output_channel(mode, device):
    """Its weight is one row, whose stride no kernel may rely on."""
    case = case_of(sample_of(1, 1, 200, torch.float16), device, "channels_last", "channels_last")
    case[0].train(mode != "evaluation")
    assert_backward_is_right(*case)


@on_kernels
def test_backward_of_far_more_outputs_than_inputs(device):
    """Rounding diag(a) W weighs more then, and dx takes what rounding leaves over of it in a second product."""
    case = case_of(sample_of(2, 200, 3, torch.bfloat16), device, "NCHW", "NCHW")
    with use_strategy("moments"):
        assert_backward_is_right(*case)


@on_kernels
def test_backward_of_more_output_channels_than_warps_share(device):
    """Warps share a channel's sums where these are few; where there are more, each warp has channels of its own."""
    sample = Sample(Branch("projection", "training", in_channels=136), None, None, shape=(2, 1064, 2, 2))
    with use_strategy("moments"):
        assert_backward_is_right(*case_of(sample.with_dtype(torch.bfloat16), device, "channels_last", "channels_last"))


@on_kernels
@each_mode
@each_number_of_products
@each_format
@each_gradient_layout
def test_backward_of_a_gradient_of_any_layout(layout, inputs_in, products, mode, device):
    case = case_of(sample_of(products, 64, 32, torch.bfloat16), device, inputs_in, layout)
    case[0].train(mode != "evaluation")
    assert_backward_is_right(*case)


@on_kernels
@pytest.mark.parametrize("layout", ["NCHW", "channels_last", "every other column", "transposed", "of a sum"])
@each_number_of_products
@pytest.mark.parametrize("channels", [35, 65])
def test_backward_of_odd_channels_in_any_layout(channels, products, layout, device):
    case = case_of(sample_of(products, channels, channels, torch.float32), device, "channels_last", layout)
    assert_backward_is_right(*case)


@on_kernels
@each_number_of_products
@pytest.mark.parametrize("inputs_in", LAYOUTS)
def test_backward_of_inputs_of_any_layout(inputs_in, products, device):
    """pytorch issues 195186, 193698: views that are misaligned."""
    case = case_of(sample_of(products, 64, 32, torch.float16), device, inputs_in, "channels_last")
    assert_as_accurate_as_unfused(*case)


@on_kernels
@each_number_of_products
@each_gradient_layout
def test_backward_copies_dy_where_its_channels_are_apart_and_nothing_else(layout, products, device):
    """As from an average pool: the kernels would read it element by element."""
    tail, inputs, dy = case_of(sample_of(products, 64, 32, torch.bfloat16), device, "channels_last", layout)
    y = tail.fused(inputs)
    with Operators() as operators:
        torch.autograd.grad(y, [*inputs.values(), *tail.parameters()], dy)
    assert operators.calls == ([] if dy.stride(1) == 1 else [("aten.contiguous.default", 4)])


@on_kernels
@each_number_of_products
def test_backward_of_the_imaginary_part_of_a_conjugate(products, device):
    """PyTorch conjugates by a mark on the tensor: memory holds the numbers before they are negated."""
    tail, inputs, dy = build(sample_of(products, 64, 32, torch.float32), device)
    negated = torch.complex(dy, -dy).conj().imag
    assert negated.is_neg()
    assert_backward_is_right(tail, inputs, negated)


@on_kernels
@each_format
@pytest.mark.parametrize("source", ["zero_pad", "projection"])
@pytest.mark.parametrize(("stride", "cut"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_backward_writes_every_pixel_of_a_strided_input(stride, cut, source, inputs_in, backend, device):
    """Memory that a gradient is given holds anything before: here, NaN where nothing is written."""
    norm = "training" if source == "projection" else None
    for channels in (17, 16):
        shortcut = Branch(source, norm, channels, stride)
        sample = Sample(Branch("direct", "training"), shortcut, shape=(2, 24, 5, 4)).with_dtype(torch.float16)
        call, gradients = compiled_backward(backend, *case_of(sample, device, inputs_in, inputs_in, cut))
        dx = gradients["shortcut.x"].fill_(torch.nan)
        call.run()
        assert dx.isfinite().all()
        assert dx[:, :, ::stride, ::stride].any()
        dx[:, :, ::stride, ::stride] = 0
        assert not dx.any()
