"""What the compiled module refuses: the message says which argument, what it was and what was expected.

`residual_tail` checks its arguments in Python and never gets here with such ones; these are the last checks before a
kernel touches memory. A refused call has launched and written nothing.
"""

import re

import pytest
import torch
from emulated import on_kernels
from refused import ForwardCall, refusal

SAME_PIXELS = "expected such that its strided pixels are those of y, of shape [2, 6, 3, 4]"
RUNNING = "running_mean and running_var"
WITHIN = "expected such that x's channels lie within y's"


@pytest.fixture
def call(backend, device):
    return ForwardCall(backend, device)


@on_kernels
def test_forward_with_valid_arguments_runs(call):
    call.made().run()
    assert call.main["norm"]["num_batches_tracked"] == 1
    assert not torch.equal(call.y, call.filled(2, 6, 3, 4))


@on_kernels
@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [
        ("y", (6, 3, 4), "y is of shape [6, 3, 4], expected of four dimensions"),
        ("y", (2, 6, 3, 5), "mask is of shape [2, 3, 4, 4], expected of shape [2, 3, 5, 4]"),
        ("y", (2, 8, 3, 4), "main.weight is of shape [6, 5, 1, 1], expected of shape [8, 5, 1, 1]"),
        ("main.x", (5, 3, 4), "main.x is of shape [5, 3, 4], expected of four dimensions"),
        ("main.x", (3, 5, 3, 4), "main.x is of shape [3, 5, 3, 4], expected of shape [2, 5, 3, 4]"),
        ("main.x", (2, 9, 3, 4), "main.weight is of shape [6, 5, 1, 1], expected of shape [6, 9, 1, 1]"),
        ("main.x", (2, 0, 3, 4), "main.x is of shape [2, 0, 3, 4], expected at least one channel"),
        *(
            ("shortcut.x", (2, 7, *size), f"shortcut.x is of shape [2, 7, {size[0]}, {size[1]}], {SAME_PIXELS}")
            for size in [(7, 7), (4, 7), (6, 9), (6, 6 + 3), (3, 4)]
        ),
        ("main.weight", (6, 5), "main.weight is of shape [6, 5], expected of shape [6, 5, 1, 1]"),
        ("main.weight", (5, 6, 1, 1), "main.weight is of shape [5, 6, 1, 1], expected of shape [6, 5, 1, 1]"),
        ("main.weight", (6, 5, 3, 3), "main.weight is of shape [6, 5, 3, 3], expected of shape [6, 5, 1, 1]"),
    ],
)
def test_forward_refuses_sizes_that_do_not_fit(call, path, shape, message):
    call.put(path, lambda t: call.filled(*shape))
    assert refusal(call) == message


@on_kernels
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("main.source", "convolution", "main.source is convolution, expected direct, zero_pad or projection"),
        ("main.stride", 0, "main.stride is 0, expected at least 1"),
        ("main.stride", -2, "main.stride is -2, expected at least 1"),
        ("main.weight", None, "main.weight is None, expected a tensor"),
        ("main.norm.running_mean", None, f"main.norm is given one of {RUNNING}, expected both or neither"),
        ("shortcut.norm.running_var", None, f"shortcut.norm is given one of {RUNNING}, expected both or neither"),
    ],
)
def test_forward_refuses_values_and_missing_tensors(call, path, value, message):
    call.put(path, lambda _: value)
    assert refusal(call) == message


@on_kernels
def test_forward_refuses_a_number_of_batches_that_is_no_scalar(call):
    call.put("main.norm.num_batches_tracked", lambda t: t.expand(2).clone())
    assert refusal(call) == "main.norm.num_batches_tracked is of shape [2], expected a scalar"


@on_kernels
def test_forward_refuses_cumulative_averages_of_uncounted_batches(call):
    call.main["norm"] |= {"momentum": None, "num_batches_tracked": None}
    assert refusal(call) == "main.norm.num_batches_tracked is None, expected a tensor where momentum is None"


@on_kernels
def test_forward_refuses_evaluation_without_running_statistics(call):
    call.main["norm"] |= {"running_mean": None, "running_var": None, "training": False}
    assert refusal(call) == "main.norm.running_mean is None, expected a tensor where training is False"


@on_kernels
def test_forward_refuses_one_value_a_channel_in_training(call):
    call.y, call.mask = call.filled(1, 6, 1, 1), None
    call.main = call.branch(call.filled(1, 5, 1, 1), 1)
    expected = "main.norm is given one value per channel, expected more than 1 value per channel when training"
    assert refusal(call) == expected


@on_kernels
@pytest.mark.parametrize(
    ("source", "channels", "changes", "message"),
    [
        ("direct", 5, {}, "shortcut.x is of shape [2, 5, 3, 4], expected as many channels as y"),
        ("zero_pad", 7, {}, f"shortcut.channels_before is 0, {WITHIN}"),
        ("zero_pad", 3, {"channels_before": 4}, f"shortcut.channels_before is 4, {WITHIN}"),
        ("zero_pad", 3, {"channels_before": -1}, f"shortcut.channels_before is -1, {WITHIN}"),
        ("zero_pad", 3, {"channels_before": 2**63 - 1}, f"shortcut.channels_before is {2**63 - 1}, {WITHIN}"),
    ],
)
def test_forward_refuses_sources_that_do_not_give_the_output(call, source, channels, changes, message):
    call.plain(source, call.filled(2, channels, 3, 4))
    call.shortcut |= changes
    assert refusal(call) == message


@on_kernels
def test_forward_refuses_a_strided_direct_source(call):
    call.plain("direct", call.filled(2, 6, 6, 8))
    call.shortcut["stride"] = 2
    assert refusal(call) == "shortcut.stride is 2, expected 1 for a direct source"


@on_kernels
def test_forward_refuses_a_norm_of_a_zero_padded_source(call):
    call.plain("zero_pad", call.filled(2, 3, 3, 4))
    call.shortcut["norm"] = call.norm()
    assert refusal(call) == "shortcut.norm is given, expected None for a zero-padded source"


@on_kernels
@pytest.mark.parametrize("vector", ["bias", "running_mean", "running_var"])
def test_forward_refuses_vectors_of_mixed_types(backend, device, vector):
    call = ForwardCall(backend, device, torch.bfloat16)
    call.main["norm"][vector] = call.filled(6, dtype=torch.float32)
    assert refusal(call) == f"main.norm.{vector}.dtype is Float, expected BFloat16"


@on_kernels
def test_forward_refuses_a_float32_bias_of_a_half_precision_projection(backend, device):
    call = ForwardCall(backend, device, torch.float16)
    call.main["bias"] = call.filled(6, dtype=torch.float32)
    assert refusal(call) == "main.bias.dtype is Float, expected Half"


@on_kernels
def test_forward_refuses_a_float16_norm_of_a_bfloat16_tail(backend, device):
    call = ForwardCall(backend, device, torch.bfloat16)
    call.main["norm"]["weight"] = call.filled(6, dtype=torch.float16)
    assert refusal(call) == "main.norm.weight.dtype is Half, expected BFloat16"


@on_kernels
def test_forward_has_statistics_of_two_branches(call):
    forward = call.made()
    with pytest.raises(RuntimeError, match=re.escape("branch is 2, expected 0 (main) or 1 (shortcut)")):
        forward.statistics(2)


@on_kernels
def test_forward_refuses_a_mask_without_a_relu(call):
    call.relu = False
    assert refusal(call) == "mask is given, expected None where relu is False"


@on_kernels
@pytest.mark.parametrize("stride", [10, 2**40, 2**62])
def test_forward_of_a_stride_beyond_the_input_reads_the_first_pixels(call, stride):
    call.shortcut = call.mask = None
    call.y, call.main = call.filled(2, 6, 1, 1), call.branch(torch.randn(2, 5, 3, 4).to(call.device), stride)
    call.made().run()
    found = call.y.clone()
    call.main |= {"x": call.main["x"][:, :, :1, :1], "stride": 1, "norm": call.norm()}
    call.made().run()
    assert torch.equal(call.y, found)
