"""Tails that have been computed before: the same results, and everything that makes a call another one is seen."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from emulated import on_kernels
from samples import FUSED, SAMPLES, build
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fused_resnet
from fused_resnet.functional import residual_tail
from fused_resnet.operation.branches import Direct, Norm, Projection
from fused_resnet.strategy import use_strategy

pytestmark = on_kernels


class Seen(TorchDispatchMode):
    """Notes the package's operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fused_resnet":
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def step(tail, inputs, dy, *, seen=False):
    """The output, gradients and buffers of a copy of the tail, remembered or, where seen, by the operators."""
    tail = copy.deepcopy(tail)
    inputs = {name: x.detach().requires_grad_(x.requires_grad) for name, x in inputs.items()}
    with Seen() if seen else nullcontext():
        y = tail.fused(inputs)
        wanted = [t for t in (*inputs.values(), *tail.parameters()) if t.requires_grad]
        gradients = torch.autograd.grad(y, wanted, dy) if wanted and y.requires_grad else ()
    return [y.detach(), *gradients, *tail.buffers()]


def assert_same(tail, inputs, dy):
    for mine, theirs in zip(step(tail, inputs, dy), step(tail, inputs, dy, seen=True), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
def test_the_second_call_gives_what_the_operators_give(name, grad, device):
    tail, inputs, dy = build(FUSED[name], device)
    with torch.set_grad_enabled(grad):
        step(tail, inputs, dy)
        assert_same(tail, inputs, dy)


CHANGES = {
    "size": {"shape": (2, 24, 5, 6)},
    "channels": {"shape": (3, 20, 6, 5)},
    "layout": {"main": replace(SAMPLES["bottleneck projection"].main, layout="channels_last")},
    "statistics": {"main": replace(SAMPLES["bottleneck projection"].main, norm="eval")},
    "momentum": {"main": replace(SAMPLES["bottleneck projection"].main, momentum=0.3)},
    "cumulative": {"main": replace(SAMPLES["bottleneck projection"].main, momentum=None)},
    "no parameters": {"main": replace(SAMPLES["bottleneck projection"].main, affine=False)},
    "bias": {"main": replace(SAMPLES["bottleneck projection"].main, bias=True)},
    "stride": {"shortcut": replace(SAMPLES["bottleneck projection"].shortcut, stride=1)},
    "activation": {"activation": None},
    "frozen": {"frozen": frozenset({"main.x", "shortcut.norm.weight"})},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_makes_it_another_call(change, device):
    first = SAMPLES["bottleneck projection"]
    step(*build(first, device))
    tail, inputs, dy = build(replace(first, **CHANGES[change]), device)
    for _ in range(2):
        assert_same(tail, inputs, dy)


@pytest.mark.parametrize("name", ["bottleneck identity", "preactivation projection", "preactivation identity"])
@pytest.mark.parametrize("layout", ["NCHW", "expanded", "of a sum", "negated"])
def test_an_incoming_gradient_of_another_layout_is_another_backward(layout, name, device):
    tail, inputs, dy = build(SAMPLES[name], device)
    step(tail, inputs, dy)
    other = {
        "NCHW": lambda: dy.contiguous(),
        "expanded": lambda: dy[:, :, :1, :1].expand_as(dy),
        "of a sum": lambda: dy[:1, :1, :1, :1].expand_as(dy),
        "negated": lambda: torch.complex(dy, -dy).conj().imag,
    }[layout]()
    for _ in range(2):
        assert_same(tail, inputs, other)


def test_two_branches_may_be_one_tensor_and_then_two(device):
    x = torch.randn(2, 8, 3, 3, device=device, requires_grad=True)
    weight = torch.randn(8, 8, 1, 1, device=device, requires_grad=True)

    def gradient(main, shortcut):
        y = residual_tail(Projection(main, weight, Norm()), Direct(shortcut))
        return torch.autograd.grad(y.square().sum(), [main, shortcut] if main is not shortcut else [main])

    (whole,) = gradient(x, x)
    parts = gradient(x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_())
    torch.testing.assert_close(sum(parts), whole)


def test_statistics_that_share_memory_are_seen_though_the_call_is_remembered(device):
    x = torch.randn(2, 8, 3, 3, device=device)

    def call(shared):
        mean, var, other = (torch.zeros(8, device=device) for _ in range(3))
        norms = [
            Norm(running_mean=mean, running_var=var),
            Norm(running_mean=mean if shared else other, running_var=other + 1),
        ]
        residual_tail(Direct(x, norms[0]), Direct(2 * x, norms[1]))
        return mean

    once = call(shared=False)
    torch.testing.assert_close(call(shared=True), once * 0.9 + 2 * x.mean((0, 2, 3)) * 0.1)


@pytest.mark.parametrize("mode", ["dispatch", "function", "subclass"])
def test_whoever_looks_on_sees_the_operators(mode, device):
    tail, inputs, _ = build(SAMPLES["bottleneck identity"], device)
    tail.fused(inputs)
    names = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            names.append(str(func))
            return super().__torch_function__(func, types, args, kwargs)

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    if mode == "subclass":
        inputs = {name: x.detach().as_subclass(Watched) for name, x in inputs.items()}
    seen = Seen()
    with {"dispatch": seen, "function": Functions(), "subclass": nullcontext()}[mode]:
        tail.fused(inputs)
    assert any("residual_tail" in name for name in names + seen.names)


def test_backward_is_seen_by_a_mode_that_comes_later(device):
    tail, inputs, dy = build(SAMPLES["bottleneck identity"], device)
    expected = step(tail, inputs, dy)
    y = tail.fused(inputs)
    with Seen() as seen:
        y.backward(dy)
    assert seen.names == ["residual_tail_backward"]
    assert torch.equal(inputs["main.x"].grad, expected[1])


def test_backward_goes_by_the_backend_of_its_own_time(device):
    tail, inputs, dy = build(SAMPLES["bottleneck identity"], device)
    expected = step(tail, inputs, dy)
    step(tail, inputs, dy)
    y = tail.fused(inputs)
    with fused_resnet.use_backend("reference"):
        y.backward(dy)
    assert not torch.equal(inputs["main.x"].grad, expected[1])
    torch.testing.assert_close(inputs["main.x"].grad, expected[1], rtol=1e-3, atol=1e-4)


def test_a_strategy_that_is_forced_is_not_that_of_an_earlier_call(device):
    tail, inputs, _ = build(SAMPLES["bottleneck identity"], device)
    saved = {}
    for strategy in ("moments", "library", "moments", "library"):
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.shape) or t, lambda t: t)
        with use_strategy(strategy), hooks:
            tail.fused(inputs)
        saved.setdefault(strategy, []).append(kept)
    assert saved["moments"][0] == saved["moments"][1] != saved["library"][0] == saved["library"][1]


def test_what_is_saved_passes_the_hooks(device):
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    tail.fused(inputs)
    packed, unpacked = [], []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: unpacked.append(t) or t):
        y = tail.fused(inputs)
    y.backward(dy)
    assert len(packed) == len(unpacked) > 0


def test_what_is_saved_must_not_change(device):
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    tail.fused(inputs)
    y = tail.fused(inputs)
    with torch.no_grad():
        inputs["main.x"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(dy)


def test_a_graph_is_gone_after_its_backward(device):
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    for _ in range(2):
        y = tail.fused(inputs)
        y.backward(dy)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.backward(dy)


def test_a_compiler_of_backwards_takes_it(device):
    """`torch._dynamo.compiled_autograd` calls the node as it is, as one operation."""
    compiled_autograd = pytest.importorskip("torch._dynamo.compiled_autograd")
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    expected = step(tail, inputs, dy)
    y = tail.fused(inputs)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        y.backward(dy)
    for mine, theirs in zip([x.grad for x in inputs.values()], expected[1:], strict=False):
        assert torch.equal(mine, theirs)


def test_without_compiled_modules_the_operators_are_called(nothing_remembered, device):
    tail, inputs, _ = build(SAMPLES["bottleneck projection"], device)
    assert "_TailBackward" in type(tail.fused(inputs).grad_fn).__name__
