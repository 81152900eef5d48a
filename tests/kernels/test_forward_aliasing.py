"""Which outputs and which shared memory the compiled module refuses, and what it takes."""

import pytest
import torch
from emulated import on_kernels, only_emulated
from refused import ForwardCall, refusal

OWN = "memory of its own, as it is written"


@pytest.fixture
def call(backend, device):
    return ForwardCall(backend, device)


@on_kernels
def test_forward_refuses_an_output_elsewhere(call):
    call.y = call.y.to("meta")
    assert refusal(call) == f"y.device is meta, expected {call.device}"


@on_kernels
def test_forward_refuses_a_sparse_output(call):
    call.y = call.y.to_sparse()
    assert refusal(call) == "y is Sparse, expected Strided"


@on_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.complex64], ids=str)
def test_forward_refuses_an_output_of_an_unknown_type(call, dtype):
    call.y = call.y.to(dtype)
    assert refusal(call).endswith(", expected Float, Half or BFloat16")


@on_kernels
def test_forward_refuses_an_output_with_gaps(call):
    call.y = call.filled(2, 6, 3, 8)[..., ::2]
    assert refusal(call) == "y is with gaps or overlaps in memory, expected dense memory"


@on_kernels
def test_forward_refuses_an_expanded_output(call):
    call.y = call.filled(1, 6, 3, 4).expand(2, 6, 3, 4)
    assert refusal(call) == "y is with gaps or overlaps in memory, expected dense memory"


@on_kernels
def test_forward_refuses_more_channels_than_it_can_index(call):
    call.y = call.filled(1, 2**20 + 1, 1, 2)
    assert refusal(call) == f"the number of y's channels is {2**20 + 1}, expected at most 2^20"


@only_emulated
def test_forward_refuses_more_pixels_than_it_can_index(call):
    call.y = torch.empty(2**31 - 2**13 + 1, dtype=torch.float16).view(1, 1, 1, -1)  # memory that nobody touches
    with pytest.raises(RuntimeError, match=r"the number of y's pixels is 2147475457, expected at most 2\^31 - 2\^13"):
        call.made()


@on_kernels
@pytest.mark.parametrize("part", ["running_mean", "running_var"])
@pytest.mark.parametrize("other", ["weight", "bias"])
def test_forward_refuses_running_statistics_in_the_memory_of_parameters(call, part, other):
    call.main["norm"][part] = call.main["norm"][other]
    assert refusal(call) == f"main.norm.{part} is in the memory of main.norm.{other}, expected {OWN}"


@on_kernels
def test_forward_refuses_a_mean_in_the_memory_of_the_variance(call):
    call.main["norm"]["running_mean"] = call.main["norm"]["running_var"]
    assert refusal(call) == f"main.norm.running_mean is in the memory of main.norm.running_var, expected {OWN}"


@on_kernels
@pytest.mark.parametrize("part", ["running_mean", "running_var", "num_batches_tracked"])
def test_forward_refuses_norms_that_share_what_they_write(call, part):
    call.shortcut["norm"][part] = call.main["norm"][part]
    assert refusal(call) == f"main.norm.{part} is in the memory of shortcut.norm.{part}, expected {OWN}"


@on_kernels
def test_forward_refuses_views_that_overlap(call):
    memory = call.filled(11)
    call.main["norm"] |= {"running_mean": memory[:6], "running_var": memory[5:]}
    assert refusal(call) == f"main.norm.running_mean is in the memory of main.norm.running_var, expected {OWN}"


@on_kernels
def test_forward_refuses_an_output_in_the_memory_of_an_input(call):
    call.plain("direct", call.y)
    assert refusal(call) == f"y is in the memory of shortcut.x, expected {OWN}"


@on_kernels
def test_forward_refuses_an_output_that_overlaps_a_weight(call):
    memory = call.filled(2 * 6 * 3 * 4 + 29)
    call.y, call.main["weight"] = memory[:144].view(2, 6, 3, 4), memory[-30:].view(6, 5, 1, 1)
    assert refusal(call) == f"y is in the memory of main.weight, expected {OWN}"


@on_kernels
def test_forward_takes_neighbours_in_memory(call):
    memory = call.filled(12)
    call.main["norm"] |= {"running_mean": memory[:6], "running_var": memory[6:]}
    call.made().run()
    assert (memory != 0.5).all()


@on_kernels
def test_forward_takes_shared_tensors_that_it_only_reads(call):
    call.shortcut["norm"] |= {name: call.main["norm"][name] for name in ("weight", "bias")}
    call.main["bias"] = call.shortcut["bias"] = call.main["norm"]["bias"]
    call.made().run()
    assert call.main["norm"]["num_batches_tracked"] == 1


@on_kernels
def test_forward_takes_one_norm_for_both_branches_in_evaluation(call):
    call.shortcut["norm"] = call.main["norm"]
    call.main["norm"]["training"] = False
    before = {name: value.clone() for name, value in call.main["norm"].items() if isinstance(value, torch.Tensor)}
    call.made().run()
    assert all(torch.equal(call.main["norm"][name], value) for name, value in before.items())
