"""How many functions a tail and a block call in Python: what the host's time goes by, and exact."""

import pathlib
import sys

import pytest
import torch
from emulated import on_kernels
from samples import SAMPLES, build
from torch import nn

import fused_resnet
from fused_resnet.nn import Bottleneck

pytestmark = on_kernels


OWN = str(pathlib.Path(fused_resnet.__file__).parent)


def python_calls(call):
    """Functions written in Python that a call runs once everything has been seen: all of them, and this package's.

    Comprehensions are left out, which are functions in some versions of Python.
    """
    for _ in range(3):
        call()
    codes = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_name not in ("<listcomp>", "<dictcomp>", "<genexpr>"):
            codes.append(frame.f_code)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    own = [code.co_name for code in codes if code.co_filename.startswith((OWN, "<fused_resnet"))]
    return [code.co_name for code in codes], own


@pytest.mark.parametrize("name", ["basic identity", "bottleneck identity", "bottleneck projection"])
def test_a_tail_is_one_call_of_the_compiled_module(name, device):
    tail, inputs, _ = build(SAMPLES[name], device)
    main = tail.main.described(inputs["main.x"])
    shortcut = tail.shortcut.described(inputs["shortcut.x"])
    every, own = python_calls(lambda: fused_resnet.residual_tail(main, shortcut))
    assert own == ["residual_tail", "run", "_module_for"]
    assert every == ["<lambda>", "residual_tail", "run", "is_dynamo_compiling", "_module_for"]


def test_backward_runs_no_python(device):
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    for _ in range(3):
        tail.fused(inputs).backward(dy)
    y = tail.fused(inputs)
    engine = torch.autograd.variable.Variable._execution_engine
    names = []
    sys.setprofile(lambda frame, event, _: names.append(frame.f_code.co_name) if event == "call" else None)
    try:
        engine.run_backward((y,), (dy,), False, False, (), allow_unreachable=True, accumulate_grad=True)
    finally:
        sys.setprofile(None)
    assert names == []


class Block(nn.Module):
    """A bottleneck's end, with nothing in it but its tail."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.norm(self.conv(x)) + x)


def test_a_fused_block_calls_as_many_functions_as_ever(device):
    block = Block().to(device)
    x = torch.randn(2, 8, 3, 3, device=device)
    unfused, _ = python_calls(lambda: block(x))
    fused_resnet.fuse(block)
    every, own = python_calls(lambda: block(x))
    assert len(own) == 21, own
    assert len(every) <= len(unfused) + 2


def test_a_block_of_this_package_calls_as_many_functions_as_ever(device):
    block = Bottleneck(32, 8).to(device)
    x = torch.randn(2, 32, 3, 3, device=device)
    every, own = python_calls(lambda: block(x))
    fused_resnet.unfuse(block)
    unfused, _ = python_calls(lambda: block(x))
    assert len(own) == 19, own
    assert len(every) < len(unfused)
