"""Under autocast a projection runs in half precision, as a convolution does; norms and their statistics do not."""

import pytest
import torch
import torch.nn.functional as F
from compare import assert_as_accurate_as_unfused
from samples import Branch, Sample, build

from fused_resnet.functional import Direct, Norm, Projection, residual_tail
from fused_resnet.strategy import use_strategy


@pytest.fixture(params=["moments", "library"], autouse=True)
def _strategy(request):
    with use_strategy(request.param):
        yield


def projections(mode):
    return Sample(Branch("projection", mode, bias=True), Branch("projection", mode, in_channels=19, stride=2))


@pytest.mark.parametrize("mode", ["training", "eval"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_projections_are_cast(dtype, mode, device):
    case = build(projections(mode), device)
    with torch.autocast(device, dtype):
        tested = assert_as_accurate_as_unfused(*case)
    assert tested.output.dtype == dtype
    for name, tensor in (*tested.gradients.items(), *tested.buffers.items()):
        assert tensor.dtype in (torch.float32, torch.int64), name


def test_a_float32_projection_joins_a_half_precision_branch(device):
    sample = Sample(Branch("direct", "training"), Branch("projection", "training", stride=2))
    tail, inputs, dy = build(sample, device)
    inputs["main.x"] = inputs["main.x"].detach().bfloat16().requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        tested = assert_as_accurate_as_unfused(tail, inputs, dy)
    assert tested.output.dtype == torch.bfloat16
    assert tested.gradients["main.x"].dtype == torch.bfloat16
    assert tested.gradients["shortcut.x"].dtype == torch.float32


def test_float32_branches_without_a_convolution_stay_float32(device):
    case = build(Sample(Branch("direct", "training"), Branch("direct")), device)
    with torch.autocast(device, torch.bfloat16):
        tested = assert_as_accurate_as_unfused(*case)
    assert tested.output.dtype == torch.float32


def test_float64_stays_float64(device):
    x, weight = (torch.randn(s, dtype=torch.double, device=device) for s in ((2, 4, 3, 3), (6, 4, 1, 1)))
    with torch.autocast(device, torch.bfloat16):
        y = residual_tail(Projection(x, weight, Norm()), None)
        expected = F.relu(F.batch_norm(F.conv2d(x, weight), None, None, training=True))
    torch.testing.assert_close(y, expected)


def test_branches_that_differ_in_dtype_after_the_cast_are_refused(device):
    x, weight = torch.randn(2, 4, 3, 3, device=device), torch.randn(4, 4, 1, 1, device=device)
    with torch.autocast(device, torch.bfloat16), pytest.raises(TypeError, match=r"shortcut\.x is torch\.float32"):
        residual_tail(Projection(x, weight, Norm()), Direct(x))


def test_backward_outside_of_autocast_and_under_it_agree(device):
    tail, inputs, dy = build(projections("training"), device)
    x = inputs["main.x"]
    with torch.autocast(device, torch.bfloat16):
        y = tail.fused(inputs)
        inside = torch.autograd.grad(y, x, dy.bfloat16(), retain_graph=True)
    assert torch.equal(torch.autograd.grad(y, x, dy.bfloat16())[0], inside[0])


def test_disabled_autocast_casts_nothing(device):
    tail, inputs, _ = build(projections("eval"), device)
    with torch.autocast(device, torch.bfloat16), torch.autocast(device, enabled=False):
        assert tail.fused(inputs).dtype == torch.float32
