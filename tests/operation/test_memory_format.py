"""Memory formats: the output's is that of the unfused operations, a gradient's that of its input."""

import pytest
import torch
from compare import assert_same_memory_format, fused, unfused
from samples import FUSED, LAYOUTS, SAMPLES, Branch, Sample, build, lay_out

from fused_resnet.strategy import use_strategy

each_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
DENSE = ("contiguous", "channels_last")


def outcomes(sample, device, layouts, weight_layout="contiguous", cut=0):
    tail, inputs, dy = build(sample, device, cut)
    inputs = {
        name: lay_out(x.detach(), layout).requires_grad_()
        for (name, x), layout in zip(inputs.items(), layouts, strict=False)
    }
    for parameter in tail.parameters():
        if parameter.dim() == 4:
            parameter.data = lay_out(parameter.data, weight_layout)
    with use_strategy("moments"):
        return fused(tail, inputs, dy), unfused(tail, inputs, dy), inputs


@each_sample
def test_output_has_the_unfused_operations_memory_format(sample, device):
    for layout in LAYOUTS:
        for weight_layout in DENSE:
            tested, expected, _ = outcomes(sample, device, (layout, layout), weight_layout)
            assert_same_memory_format(tested.output, expected.output)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 5, 1, 6), (2, 1, 4, 3)], ids=str)
@pytest.mark.parametrize("missing", [0, 4])
def test_padding_gives_the_unfused_operations_format(missing, shape, layout, stride, device):
    """PyTorch pads the pixels that are read, by nothing with a copy in their layout."""
    n, c, h, w = shape
    tail, inputs, _ = build(
        Sample(Branch("zero_pad", None, c, stride, layout=layout), None, shape=(n, c + missing, h, w)), device, cut=1
    )
    with torch.no_grad():
        assert_same_memory_format(tail.fused(inputs), tail.unfused(inputs).relu())


@each_sample
def test_branches_in_different_formats_give_the_unfused_operations_format(sample, device):
    for layouts in (DENSE, DENSE[::-1]):
        tested, expected, _ = outcomes(sample, device, layouts)
        assert_same_memory_format(tested.output, expected.output)


@pytest.mark.parametrize("sample", FUSED.values(), ids=FUSED)
def test_gradient_has_its_inputs_memory_format(sample, device):
    """pytorch issue 107199: the gradient's memory layout differs from the input's."""
    for layouts in ((DENSE[0],) * 2, (DENSE[1],) * 2, DENSE):
        tested, _, inputs = outcomes(sample, device, layouts)
        for name, x in inputs.items():
            assert_same_memory_format(tested.gradients[name], x)


@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (3, 8, 1, 1), (3, 8, 1, 5), (3, 8, 5, 1), (1, 8, 4, 4)], ids=str)
@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("stride", [1, 2])
def test_sizes_of_one_do_not_confuse_the_format(stride, layout, shape, device):
    sample = Sample(Branch("projection", "training", stride=stride), None, shape=shape)
    for cut in range(stride):
        tested, expected, _ = outcomes(sample, device, (layout,), cut=cut)
        assert_same_memory_format(tested.output, expected.output)


def test_output_is_new_memory(device):
    for sample in SAMPLES.values():
        tail, inputs, _ = build(sample, device)
        y = tail.fused(inputs)
        storages = {t.untyped_storage().data_ptr() for t in (*inputs.values(), *tail.parameters(), *tail.buffers())}
        assert y.untyped_storage().data_ptr() not in storages


def test_strided_projection_has_zero_gradient_where_it_does_not_read(device):
    for layout in DENSE:
        tested, _, _ = outcomes(SAMPLES["bottleneck projection"], device, (layout, layout))
        gradient = tested.gradients["shortcut.x"].clone()
        assert gradient[:, :, ::2, ::2].abs().min() > 0
        gradient[:, :, ::2, ::2] = 0
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_a_weight_has_the_weights_own_strides(layout, device):
    """Along sizes of one, too: `DistributedDataParallel` warns where its buckets' views differ there."""
    sample = Sample(Branch("projection", "training", in_channels=6), Branch("projection", in_channels=5))
    tail, inputs, dy = build(sample, device)
    tail = tail.to(memory_format=layout)
    weights = [tail.main.conv.weight, tail.shortcut.conv.weight]
    with use_strategy("moments"):
        gradients = torch.autograd.grad(tail.fused(inputs), weights, dy)
    assert [gradient.stride() for gradient in gradients] == [weight.stride() for weight in weights]
