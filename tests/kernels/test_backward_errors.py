"""What the compiled module's backward refuses: the message says which argument, what it was and what was expected.

Autograd never gets here with such arguments; these are the last checks before a kernel touches memory. A refused call
has launched and written nothing.
"""

import pytest
import torch
from emulated import on_kernels, only_emulated
from refused import BackwardCall, refusal

SAME_PIXELS = "expected such that its strided pixels are those of dy, of shape [2, 6, 3, 4]"
WITHIN = "expected such that they and channels_before lie within dy's"
NO_PARAMETER = "expected None: the branch has no such parameter"
STATISTICS = ["main.norm.var", "main.norm.mu", "main.norm.cov", "shortcut.norm.mean", "shortcut.norm.var"]


@pytest.fixture
def call(backend, device):
    return BackwardCall(backend, device)


@on_kernels
def test_backward_with_valid_arguments_runs(call):
    call.made().run()
    for branch in (call.main, call.shortcut):
        written = [branch[name] for name in ("dx", "dweight", "dbias", "dgamma", "dbeta")]
        assert not any(torch.equal(t, torch.full_like(t, 0.5)) for t in written)


@on_kernels
def test_backward_refuses_a_gradient_elsewhere(call):
    call.dy = call.dy.to("meta")
    assert refusal(call) == f"dy.device is meta, expected {call.device}"


@on_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.complex64], ids=str)
def test_backward_refuses_a_gradient_of_an_unknown_type(call, dtype):
    call.dy = call.dy.to(dtype)
    assert refusal(call).endswith(", expected Float, Half or BFloat16")


@on_kernels
@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [
        ("dy", (6, 3, 4), "dy is of shape [6, 3, 4], expected of four dimensions"),
        ("dy", (2, 6, 3, 5), "mask is of shape [2, 3, 4, 4], expected of shape [2, 3, 5, 4]"),
        ("dy", (2, 8, 3, 4), "main.weight is of shape [6, 5, 1, 1], expected of shape [8, 5, 1, 1]"),
        ("main.x", (5, 3, 4), "main.x is of shape [5, 3, 4], expected of four dimensions"),
        ("main.x", (3, 5, 3, 4), f"main.x is of shape [3, 5, 3, 4], {SAME_PIXELS}"),
        ("main.x", (2, 9, 3, 4), "main.dx is of shape [2, 5, 3, 4], expected of shape [2, 9, 3, 4]"),
        *(
            ("shortcut.x", (2, 7, *size), f"shortcut.x is of shape [2, 7, {size[0]}, {size[1]}], {SAME_PIXELS}")
            for size in [(7, 7), (4, 7), (6, 9), (3, 4)]
        ),
        ("shortcut.dx", (2, 7, 3, 4), f"shortcut.dx is of shape [2, 7, 3, 4], {SAME_PIXELS}"),
        ("shortcut.dx", (2, 7, 6, 8), "shortcut.dx is of shape [2, 7, 6, 8], expected of shape [2, 7, 6, 7]"),
        ("main.weight", (6, 5), "main.weight is of shape [6, 5], expected of shape [6, 5, 1, 1]"),
        ("main.weight", (5, 6, 1, 1), "main.weight is of shape [5, 6, 1, 1], expected of shape [6, 5, 1, 1]"),
        ("main.dweight", (6, 5), "main.dweight is of shape [6, 5], expected of shape [6, 5, 1, 1]"),
        ("main.norm.mu", (6,), "main.norm.mu is of shape [6], expected of shape [5]"),
        ("main.norm.cov", (5, 6), "main.norm.cov is of shape [5, 6], expected of shape [5, 5]"),
    ],
)
def test_backward_refuses_sizes_that_do_not_fit(call, path, shape, message):
    call.put(path, lambda t: call.filled(*shape))
    assert refusal(call) == message


@on_kernels
def test_backward_refuses_a_projection_of_no_channels(call):
    call.main |= {"x": call.filled(2, 0, 3, 4), "dx": None}
    assert refusal(call) == "main.x is of shape [2, 0, 3, 4], expected at least one channel"


@only_emulated
def test_backward_refuses_lines_longer_than_it_can_index(backend, device):
    call = BackwardCall(backend, device, torch.bfloat16)
    call.shortcut, call.mask, call.relu, call.dy = None, None, False, call.filled(1, 6, 1, 1)
    call.main = call.branch(call.filled(1, 1, 1, 1), 2**31)
    wide = torch.empty(1, 1, 1, 2**31, dtype=torch.bfloat16)  # memory that nobody touches
    call.main |= {"x": wide[..., :1].expand(wide.shape), "dx": wide}
    with pytest.raises(RuntimeError, match=r"main.dx is of shape .*, expected of at most 2\^31 - 1 lines and columns"):
        call.made()


@on_kernels
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("main.source", "convolution", "main.source is convolution, expected direct, zero_pad or projection"),
        ("main.stride", 0, "main.stride is 0, expected at least 1"),
        ("main.stride", -2, "main.stride is -2, expected at least 1"),
        ("main.weight", None, "main.weight is None, expected a tensor"),
        ("main.x", None, "main.x is None, expected a tensor"),
        ("main.norm.cov", None, "main.norm is given one of mu and cov, expected both or neither"),
        ("main.norm.mu", None, "main.norm is given one of mu and cov, expected both or neither"),
        ("main.norm.var", None, "main.norm is without its statistics, expected var, mu and cov"),
        ("shortcut.norm.var", None, "shortcut.norm is without its statistics, expected mean and var"),
        ("shortcut.norm.mean", None, "shortcut.norm is without its statistics, expected mean and var"),
    ],
)
def test_backward_refuses_values_and_missing_tensors(call, path, value, message):
    call.put(path, lambda _: value)
    assert refusal(call) == message


@on_kernels
@pytest.mark.parametrize(
    ("source", "channels", "changes", "message"),
    [
        ("direct", 5, {}, "shortcut.dx is of shape [2, 5, 3, 4], expected as many channels as dy"),
        ("zero_pad", 7, {}, f"shortcut.dx's channels is 7, {WITHIN}"),
        ("zero_pad", 3, {"channels_before": 4}, f"shortcut.dx's channels is 3, {WITHIN}"),
        ("zero_pad", 3, {"channels_before": -1}, f"shortcut.dx's channels is 3, {WITHIN}"),
        ("zero_pad", 3, {"channels_before": 2**63 - 1}, f"shortcut.dx's channels is 3, {WITHIN}"),
        ("direct", 6, {"stride": 2}, "shortcut.stride is 2, expected 1 for a direct source"),
    ],
)
def test_backward_refuses_sources_that_do_not_give_the_output(call, source, channels, changes, message):
    call.plain(source, call.filled(2, channels, 3, 4))
    call.shortcut |= changes
    assert refusal(call) == message


@on_kernels
@pytest.mark.parametrize("part", ["weight", "dbias", "dgamma", "dbeta"])
@pytest.mark.parametrize("source", ["direct", "zero_pad"])
def test_backward_refuses_gradients_of_what_a_source_has_not(call, source, part):
    call.plain(source, call.filled(2, 6, 3, 4))
    call.shortcut[part] = call.filled(6)
    expected = "expected None" if part == "weight" else NO_PARAMETER
    assert refusal(call) == f"shortcut.{part} is given, {expected}"


@on_kernels
def test_backward_refuses_a_norm_of_a_zero_padded_source(call):
    call.plain("zero_pad", call.filled(2, 3, 3, 4))
    call.shortcut["norm"] = call.norm()
    assert refusal(call) == "shortcut.norm is given, expected None for a zero-padded source"


@on_kernels
@pytest.mark.parametrize("vector", ["dbeta", "dgamma"])
def test_backward_refuses_vectors_of_a_norm_of_mixed_types(backend, device, vector):
    call = BackwardCall(backend, device, torch.bfloat16)
    call.main |= {"dbeta": None, "dgamma": None, vector: call.floats(6)}
    assert refusal(call) == f"main.{vector}.dtype is Float, expected BFloat16"


@on_kernels
def test_backward_refuses_a_float32_gradient_of_a_half_precision_bias(backend, device):
    call = BackwardCall(backend, device, torch.float16)
    call.main["dbias"] = call.floats(6)
    assert refusal(call) == "main.dbias.dtype is Float, expected Half"


@on_kernels
@pytest.mark.parametrize("path", STATISTICS)
def test_backward_refuses_statistics_in_half_precision(backend, device, path):
    call = BackwardCall(backend, device, torch.bfloat16)
    call.put(path, lambda t: t.to(torch.bfloat16))
    assert refusal(call) == f"{path}.dtype is BFloat16, expected Float"


MISSING = "expected None without a relu, or where main's norm is all that the relu is of"


@on_kernels
def test_backward_of_a_relu_needs_its_mask(call):
    call.mask = None
    assert refusal(call) == "mask is None, expected a tensor"


@on_kernels
def test_backward_refuses_a_mask_without_a_relu(call):
    call.relu = False
    assert refusal(call) == f"mask is given, {MISSING}"


@on_kernels
def test_backward_refuses_a_mask_of_a_norm_by_itself(call):
    call.shortcut = None
    call.main |= {"source": "direct", "x": call.filled(2, 6, 3, 4), "dx": call.filled(2, 6, 3, 4)}
    call.main |= dict.fromkeys(("weight", "dweight", "dbias"))
    call.main["norm"] |= {"mean": call.floats(6), "mu": None, "cov": None}
    assert refusal(call) == f"mask is given, {MISSING}"


@on_kernels
def test_backward_refuses_a_mask_with_gaps(call):
    call.mask = torch.cat([call.mask, call.mask], 3)[..., ::2]
    assert refusal(call) == "mask is strided [96, 32, 8, 2], expected contiguous"


@on_kernels
@pytest.mark.parametrize("stride", [10, 2**32 + 1, 2**40, 2**62])
def test_backward_of_a_stride_beyond_the_input_fills_all_of_the_gradient(call, stride):
    call.shortcut, call.mask, call.relu = None, None, False
    call.dy, call.main = call.filled(2, 6, 1, 1), call.branch(torch.randn(2, 5, 3, 4).to(call.device), stride)
    call.main["norm"]["training"] = False
    call.made().run()
    found = call.main["dx"]
    call.main |= {"x": call.main["x"][:, :, :1, :1], "stride": 1, "dx": call.filled(2, 5, 1, 1)}
    call.made().run()
    expected = torch.zeros_like(found)
    expected[:, :, :1, :1] = call.main["dx"]
    assert torch.equal(found, expected)
