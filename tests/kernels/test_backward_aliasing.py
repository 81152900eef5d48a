"""What the backward writes has memory of its own: which shared memory is refused, and what stays as it was."""

import pytest
import torch
from emulated import on_kernels, only_emulated
from kernel_samples import each
from refused import BackwardCall, refusal
from samples import FUSED, SAMPLES, build

OWN = "memory of its own, as it is written"
WRITTEN = [
    f"{branch}.{part}" for branch in ("main", "shortcut") for part in ("dx", "dweight", "dbias", "dgamma", "dbeta")
]

each_result = pytest.mark.parametrize("path", WRITTEN)


@pytest.fixture
def call(backend, device):
    return BackwardCall(backend, device)


def argument(call, path):
    branch, name = path.split(".")
    return getattr(call, branch)[name]


@on_kernels
@pytest.mark.covers("other")  # whichever result it is, the same check refuses it
@each_result
@pytest.mark.parametrize("other", ["dy", "mask"])
def test_backward_refuses_a_result_in_the_memory_of_what_it_reads(call, path, other):
    """inplace_abn issue 155: a backward in place corrupts a gradient, or an output, that somebody else reads too."""
    memory = call.filled(143 + 2 * 7 * 6 * 7)
    read, like = getattr(call, other), argument(call, path)
    floats = read.nbytes // 4
    setattr(call, other, memory[:floats].view(read.dtype).view(read.shape))
    call.put(path, lambda t: memory[floats - 1 : floats - 1 + like.numel()].view(like.shape))
    assert refusal(call) == f"{path} is in the memory of {other}, expected {OWN}"


@on_kernels
@each_result
def test_backward_refuses_a_result_in_the_memory_of_another(call, path):
    other = WRITTEN[(WRITTEN.index(path) + 1) % len(WRITTEN)]
    shapes = [argument(call, name).shape for name in (path, other)]
    memory = call.filled(max(shape.numel() for shape in shapes))
    for name, shape in zip((path, other), shapes, strict=True):
        call.put(name, lambda t, shape=shape: memory[: shape.numel()].view(shape))
    first, second = sorted((path, other), key=WRITTEN.index)
    assert refusal(call) == f"{first} is in the memory of {second}, expected {OWN}"


@on_kernels
@pytest.mark.parametrize(
    ("path", "other"),
    [("main.dx", "main.x"), ("main.dweight", "main.weight"), ("shortcut.dx", "shortcut.x")],
)
def test_backward_refuses_a_gradient_in_the_memory_of_its_operand(call, path, other):
    call.put(path, lambda t: argument(call, other))
    assert refusal(call) == f"{path} is in the memory of {other}, expected {OWN}"


@on_kernels
@pytest.mark.parametrize("statistics", ["weight", "mean", "var"])
def test_backward_refuses_a_result_in_the_memory_of_statistics(call, statistics):
    call.shortcut["dbeta"] = call.shortcut["norm"][statistics]
    assert refusal(call) == f"shortcut.dbeta is in the memory of shortcut.norm.{statistics}, expected {OWN}"


@on_kernels
@pytest.mark.parametrize("path", ["main.dx", "main.dweight"])
def test_backward_refuses_a_result_with_gaps(call, path):
    call.put(path, lambda t: call.filled(t.shape[0], 2 * t.shape[1], *t.shape[2:])[:, ::2])
    assert refusal(call) == f"{path} is with gaps or overlaps in memory, expected dense memory"


@on_kernels
@pytest.mark.parametrize("path", ["main.dx", "main.dweight"])
def test_backward_refuses_an_expanded_result(call, path):
    call.put(path, lambda t: call.filled(1, *t.shape[1:]).expand(t.shape))
    assert refusal(call) == f"{path} is with gaps or overlaps in memory, expected dense memory"


@on_kernels
def test_backward_refuses_memory_for_an_identity_without_relu(call):
    call.plain("direct", call.filled(2, 6, 3, 4))
    call.mask, call.relu = None, False
    assert refusal(call) == "shortcut.dx is given, expected None: without a relu it is dy"


@on_kernels
def test_backward_refuses_two_identities(call):
    call.plain("direct", call.filled(2, 6, 3, 4))
    call.main = {**call.shortcut, "dx": call.filled(2, 6, 3, 4)}
    assert refusal(call) == "shortcut.dx is given, expected None: it is main.dx"


@on_kernels
def test_backward_refuses_more_channels_than_it_can_index(call):
    call.dy = call.filled(1, 2**20 + 1, 1, 2)
    assert refusal(call) == f"the number of dy's channels is {2**20 + 1}, expected at most 2^20"


@only_emulated
def test_backward_refuses_more_pixels_than_it_can_index(call):
    call.dy = torch.empty(2**31 - 2**13 + 1, dtype=torch.float16).view(1, 1, 1, -1)  # memory that nobody touches
    with pytest.raises(RuntimeError, match=r"the number of dy's pixels is 2147475457, expected at most 2\^31 - 2\^13"):
        call.made()


@on_kernels
def test_backward_takes_neighbours_in_memory(call):
    memory = call.filled(18)
    call.main |= {name: memory[6 * i : 6 * i + 6] for i, name in enumerate(("dbias", "dgamma", "dbeta"))}
    call.made().run()
    assert (memory != 0.5).all()


@on_kernels
def test_backward_takes_shared_tensors_that_it_only_reads(call):
    call.shortcut["norm"] |= {name: call.main["norm"][name] for name in ("weight", "var")}
    call.shortcut["norm"]["mean"] = call.main["norm"]["var"]
    before = [call.dy.clone(), call.main["norm"]["var"].clone()]
    call.made().run()
    assert all(map(torch.equal, (call.dy, call.main["norm"]["var"]), before))


@on_kernels
@each(FUSED)
def test_backward_leaves_the_output_and_its_gradient_as_they_are(sample, device):
    tail, inputs, dy = build(sample, device)
    y = tail.fused(inputs)
    before = [(t._version, t.detach().clone()) for t in (y, dy)]
    y.backward(dy)
    for tensor, (version, value) in zip((y, dy), before, strict=True):
        assert tensor._version == version
        assert torch.equal(tensor, value)


@on_kernels
@pytest.mark.parametrize("name", ["preactivation identity", "preactivation projection"])
def test_gradient_handed_on_by_an_identity_is_nobody_elses_to_change(name, device):
    """inplace_abn issue 155: several tensors get the gradient of a sum, and each accumulates in place."""
    tail, inputs, dy = build(SAMPLES[name], device)
    (identity,) = [x for n, x in inputs.items() if getattr(tail, n.split(".")[0]).conv is None]
    other, original = torch.zeros_like(dy).requires_grad_(), dy.clone()
    for _ in range(3):
        (tail.fused(inputs) + identity + other).backward(dy)
    assert torch.equal(dy, original)
    torch.testing.assert_close(other.grad, 3 * original)
    torch.testing.assert_close(identity.grad, 6 * original)
