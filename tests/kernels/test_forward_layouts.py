"""The forward by the kernels for any number of channels and any layout in memory, without a copy of an activation."""

import copy

import pytest
import torch
from compare import assert_accurate, assert_as_accurate_as_unfused
from dispatched import Operators
from emulated import compiled_forward, on_kernels
from kernel_samples import CHANNELS, each_dtype, each_mode, each_number_of_products, sample_of
from memory_layouts import LAYOUTS
from samples import Branch, Sample, build

MIXED = [("NCHW", "channels_last"), ("channels_last", "NCHW"), ("every other column", "repeated image")]
PAIRS = [*((name, name) for name in LAYOUTS), *MIXED]

each_layout = pytest.mark.parametrize("layouts", PAIRS, ids=" and ".join)


def laid_out(inputs, layouts):
    return {name: LAYOUTS[layout](x.detach()) for (name, x), layout in zip(inputs.items(), layouts, strict=True)}


def computed(tail, inputs, compute):
    """The output and running statistics of a copy."""
    tail = copy.deepcopy(tail)
    with torch.no_grad():
        return {"output": compute(tail, inputs), **dict(tail.named_buffers())}


def unfused(tail, inputs):
    return tail.unfused(inputs).relu()


def assert_forward_is_accurate(tail, inputs):
    tested = computed(tail, inputs, lambda tail, inputs: tail.fused(inputs))
    eager = computed(tail, inputs, unfused)
    exact = computed(copy.deepcopy(tail).double(), {name: x.double() for name, x in inputs.items()}, unfused)
    for name, result in tested.items():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(result, eager[name])
            continue
        # A mean is as accurate as the standard deviation it is of.
        scale = exact[name.replace("running_mean", "running_var")].sqrt().norm().item() if "running" in name else 0.0
        assert_accurate(name, result, eager[name], exact[name], scale)


@on_kernels
@each_mode
@each_dtype
@each_number_of_products
@pytest.mark.parametrize("channels", CHANNELS)
def test_forward_of_any_number_of_channels(channels, products, dtype, mode, device):
    inputs_of = dict(zip(CHANNELS, reversed(CHANNELS), strict=True))
    tail, inputs, _ = build(sample_of(products, channels, inputs_of[channels], dtype), device)
    layout = "channels_last" if dtype == torch.float16 else "NCHW"
    tail.train(mode != "evaluation")
    assert_forward_is_accurate(tail, laid_out(inputs, [layout, layout]))


@on_kernels
@each_mode
@each_dtype
@each_number_of_products
@each_layout
def test_forward_of_any_layout(layouts, products, dtype, mode, device):
    tail, inputs, _ = build(sample_of(products, 64, 32, dtype), device)
    tail.train(mode != "evaluation")
    assert_forward_is_accurate(tail, laid_out(inputs, layouts))


@on_kernels
@each_mode
@each_number_of_products
@each_layout
def test_forward_copies_no_activation(layouts, products, mode, device):
    tail, inputs, _ = build(sample_of(products, 64, 32, torch.bfloat16), device)
    inputs = laid_out(inputs, layouts)
    tail.train(mode != "evaluation")
    with torch.no_grad(), Operators() as operators:
        tail.fused(inputs)
    assert [name for name, dimensions in operators.calls if dimensions == 4] == []


OUTPUTS = {name: LAYOUTS[name] for name in ("NCHW", "channels_last", "transposed", "1 elements off", "4 elements off")}


@on_kernels
@each_dtype
@each_number_of_products
@pytest.mark.parametrize("layout", OUTPUTS)
def test_forward_writes_the_same_numbers_to_any_layout(layout, products, dtype, backend, device):
    tail, inputs, _ = build(sample_of(products, 64, 32, dtype), device)
    inputs = laid_out(inputs, ["channels_last", "channels_last"])
    call, expected = compiled_forward(backend, copy.deepcopy(tail), inputs)
    call.run()
    call, y = compiled_forward(backend, tail, inputs, OUTPUTS[layout](torch.zeros_like(expected)))
    call.run()
    assert torch.equal(y, expected)


@on_kernels
@each_mode
@each_number_of_products
def test_forward_of_the_imaginary_part_of_a_conjugate(products, mode, device):
    """PyTorch conjugates by a mark on the tensor: memory holds the numbers before they are negated."""
    tail, inputs, _ = build(sample_of(products, 64, 32, torch.float32), device)
    inputs = {name: torch.complex(x, -x).detach().conj().imag for name, x in inputs.items()}
    assert all(x.is_neg() for x in inputs.values())
    tail.train(mode != "evaluation")
    assert_forward_is_accurate(tail, inputs)


@on_kernels
@pytest.mark.parametrize("source", ["direct", "projection"])
@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 4), (torch.float16, 8)], ids=["float32", "float16"])
def test_padding_ahead_may_end_within_a_vector(source, dtype, channels, device):
    """x's channels are whole vectors of 16 bytes, and in the output they begin in the middle of one."""
    padded = Branch("zero_pad", in_channels=channels, placement="both", layout="channels_last")
    sample = Sample(Branch(source, "eval", layout="channels_last"), padded, shape=(2, 2 * channels, 3, 3))
    assert_as_accurate_as_unfused(*build(sample.with_dtype(dtype), device))
