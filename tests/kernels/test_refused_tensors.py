"""What tensors of forward and backward calls must be, whichever argument they are: the compiled module's own checks.

The message says which argument, what it was and what was expected. A refused call has launched and written nothing.
"""

import re

import pytest
import torch
from emulated import on_kernels, only_emulated
from refused import BackwardCall, ForwardCall, refusal

CALLS = {"forward": ForwardCall, "backward": BackwardCall}
BRANCHES = ("main", "shortcut")
RUNNING = ("norm.running_mean", "norm.running_var")
STATISTICS = ["main.norm.var", "main.norm.mu", "main.norm.cov", "shortcut.norm.mean", "shortcut.norm.var"]
PARTS = {
    "forward": ("x", "weight", "bias", "norm.weight", "norm.bias", *RUNNING),
    "backward": ("x", "weight", "norm.weight", "dx", "dweight", "dbias", "dgamma", "dbeta"),
}
# Arguments by call. The output's gradient decides on the device and type of all others.
IN_BRANCHES = {kind: [f"{branch}.{part}" for branch in BRANCHES for part in parts] for kind, parts in PARTS.items()}
COUNTERS = [f"{branch}.norm.num_batches_tracked" for branch in BRANCHES]
FLOATS = {"forward": IN_BRANCHES["forward"], "backward": [*IN_BRANCHES["backward"], *STATISTICS]}
# Whichever argument it is, the same check refuses it.
pytestmark = pytest.mark.covers("kind", "backend")

OF_CHANNELS = ("bias", "norm.weight", *RUNNING, "norm.mean", "norm.var", "dgamma", "dbeta")


def each(chosen):
    cases = [pytest.param(kind, path, id=f"{kind} {path}") for kind, paths in chosen.items() for path in paths]
    return pytest.mark.parametrize(("kind", "path"), cases)


each_but_the_first = each(
    {"forward": ["mask", *FLOATS["forward"], *COUNTERS], "backward": ["mask", *FLOATS["backward"]]}
)
each_tensor = each(
    {"forward": ["mask", *FLOATS["forward"], *COUNTERS], "backward": ["dy", "mask", *FLOATS["backward"]]}
)
each_float = each(FLOATS | {"backward": ["dy", *FLOATS["backward"]]})
each_vector = each({kind: [path for path in paths if path.endswith(OF_CHANNELS)] for kind, paths in FLOATS.items()})


@pytest.fixture
def call(kind, backend, device):
    return CALLS[kind](backend, device)


@on_kernels
@each_but_the_first
def test_call_refuses_a_tensor_elsewhere(call, path):
    expected = (call.y if isinstance(call, ForwardCall) else call.dy).device
    call.put(path, lambda t: t.to("meta"))
    assert refusal(call) == f"{path}.device is meta, expected {expected}"


@on_kernels
@each_but_the_first
def test_call_refuses_a_tensor_of_another_type(call, path):
    expected = "Byte" if path == "mask" else "Long" if path.endswith("tracked") else "Float"
    call.put(path, lambda t: t.to(torch.float64))
    assert refusal(call) == f"{path}.dtype is Double, expected {expected}"


@on_kernels
@each_tensor
def test_call_refuses_a_sparse_tensor(call, path):
    call.put(path, lambda t: t.to_sparse())
    assert refusal(call) == f"{path} is Sparse, expected Strided"


@on_kernels
@each_float
def test_call_refuses_a_tensor_that_is_negated_when_read(call, path):
    call.put(path, lambda t: torch.complex(t, t).conj().imag)
    assert refusal(call) == f"{path} is a view that negates its memory, expected one that does not"


@only_emulated
@each_tensor
def test_call_refuses_an_address_within_an_element(call, path):
    def one_byte_further(t):
        memory = bytearray(t.numel() * t.element_size() + 1)
        return torch.frombuffer(memory, dtype=t.dtype, offset=1).view(t.shape)

    call.put(path, one_byte_further)
    expected = "4" if path == "mask" else "its element size"
    assert re.fullmatch(rf"{path}'s address is \d+, expected a multiple of {expected}", refusal(call))


@on_kernels
@each_vector
def test_call_refuses_a_vector_of_another_length(call, path):
    call.put(path, lambda t: call.filled(7))
    assert refusal(call) == f"{path} is of shape [7], expected of shape [6]"


@on_kernels
@each_vector
def test_call_refuses_a_vector_with_gaps(call, path):
    call.put(path, lambda t: call.filled(12)[::2])
    assert refusal(call) == f"{path} is strided [2], expected contiguous"
