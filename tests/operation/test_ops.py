"""The operators keep PyTorch's contract for operators, on every backend."""

import pytest
import torch
from compare import fused
from emulated import only_emulated
from samples import FUSED, Branch, Sample, build
from torch.utils._python_dispatch import TorchDispatchMode

from fused_resnet import use_backend
from fused_resnet.operators.signature import flat, forward_arguments
from fused_resnet.strategy import use_strategy

each_sample = pytest.mark.parametrize("sample", FUSED.values(), ids=FUSED)


def branches_of(tail, inputs):
    shortcut = None if tail.shortcut is None else tail.shortcut.described(inputs["shortcut.x"])
    return [branch for branch in (tail.main.described(inputs["main.x"]), shortcut) if branch is not None]


def call_of(tail, inputs):
    """The operator that a call of `residual_tail` reaches, and its arguments."""
    branches = branches_of(tail, inputs)
    tracked = any(
        branch.norm is not None and branch.norm.training and branch.norm.running_mean is not None for branch in branches
    )
    operator = torch.ops.fused_resnet.residual_tail_tracked if tracked else torch.ops.fused_resnet.residual_tail
    values = flat([*map(forward_arguments, branches)])
    return operator.default, (*values, tail.activation == "relu")


@pytest.mark.covers("backend")
@each_sample
def test_operators_keep_the_contract(sample, device):
    tail, inputs, _ = build(sample, device)
    torch.library.opcheck(*call_of(tail, inputs))


@pytest.mark.covers("backend")
@each_sample
def test_operators_with_statistics_keep_the_contract(sample, device):
    tail, inputs, _ = build(sample, device)
    operator, arguments = call_of(tail, inputs)
    name = operator.overloadpacket.__name__.replace("residual_tail", "residual_tail_forward")
    torch.library.opcheck(getattr(torch.ops.fused_resnet, name).default, detached(arguments))


@pytest.mark.parametrize("mode", ["training", "eval"])
def test_operators_of_an_empty_batch_keep_the_contract(mode, device):
    """As a compiled network may meet one: nothing is computed, and gradients of parameters are zeros."""
    sample = Sample(Branch("projection", mode, bias=True), Branch("direct", mode), shape=(0, 10, 4, 3))
    tail, inputs, dy = build(sample, device)
    operator, arguments = call_of(tail, inputs)
    torch.library.opcheck(operator, arguments)
    y = operator(*arguments)
    y.backward(dy)
    assert y.shape == dy.shape
    for name, parameter in tail.named_parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name
    name = operator.overloadpacket.__name__.replace("residual_tail", "residual_tail_forward")
    torch.library.opcheck(getattr(torch.ops.fused_resnet, name).default, detached(arguments))


def detached(arguments):
    """Without gradients, which are no matter of the operators below autograd."""
    return [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]


class Calls(TorchDispatchMode):
    """Notes the calls of one operator."""

    def __init__(self, operator):
        super().__init__()
        self.operator, self.arguments = operator, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is self.operator:
            self.arguments.append(detached(args))
        return func(*args, **(kwargs or {}))


@pytest.mark.covers("backend")
@each_sample
def test_backward_operator_keeps_the_contract(sample, device):
    tail, inputs, dy = build(sample, device)
    operator = torch.ops.fused_resnet.residual_tail_backward.default
    with use_strategy("moments"):
        y = tail.fused(inputs)
    with Calls(operator) as calls:
        y.backward(dy)
    assert len(calls.arguments) == 1
    torch.library.opcheck(operator, calls.arguments[0])


@only_emulated
@pytest.mark.parametrize("direction", [("emulated", "reference"), ("reference", "emulated")], ids=" then ".join)
@each_sample
def test_a_backend_runs_the_backward_of_anothers_forward(sample, direction, backend):
    """Statistics mean the same, whoever took them."""
    tail, inputs, dy = build(sample)
    first, second = direction
    with use_backend(second):
        expected = fused(tail, inputs, dy).gradients
    sources = {n: t for n, t in (*inputs.items(), *tail.named_parameters()) if t.requires_grad}
    with use_backend(first):
        y = tail.fused(inputs)
    with use_backend(second):
        gradients = torch.autograd.grad(y, list(sources.values()), dy)
    for name, gradient in zip(sources, gradients, strict=True):
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_autocast_casts_a_projections_operands_and_no_others(device):
    """Also where the operator itself is called."""
    tail, inputs, _ = build(FUSED["bottleneck projection"], device)
    operator, arguments = call_of(tail, inputs)
    with torch.autocast(device, torch.bfloat16):
        assert operator(*arguments).dtype == torch.bfloat16
    tail, inputs, _ = build(FUSED["basic identity"], device)
    operator, arguments = call_of(tail, inputs)
    with torch.autocast(device, torch.bfloat16):
        assert operator(*arguments).dtype == torch.float32
