"""The tails that are timed: tables, values, counted bytes. No test looks at a time."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from late_tails import MODES, LateTail

from benchmarks import clocks as timing
from benchmarks.accuracy import relative_error
from benchmarks.tail_shapes import NETWORKS, RESNET50, TailShape, distinct
from benchmarks.tails import Mode, Tail, counted_bytes, incoming_gradient
from fused_resnet import models
from fused_resnet.nn import ResidualBlock


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def tails_of(network: str) -> dict[str, tuple[object, ...]]:
    """Each block of the package's own model: sizes of the tail's inputs and output, and how its shortcut is made."""
    name, _, option = network.partition("-")
    cifar = name in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
    found: dict[str, tuple[object, ...]] = {}
    with torch.device("meta"):
        model = getattr(models, name)(fused=False, **({"shortcut": option} if option else {}))
        images = torch.empty(1, 3, *([32] * 2 if cifar else [224] * 2))

    def note(name: str, block: ResidualBlock) -> None:
        def hook(_: object, inputs: tuple[torch.Tensor], y: torch.Tensor) -> None:
            (before,) = inputs
            conv3 = getattr(block, "conv3", None)
            changes = before.shape != y.shape
            kind = type(block.downsample).__name__
            inner = conv3 and conv3.in_channels
            stride = before.shape[2] // y.shape[2]
            found[name] = (y.shape[2], inner, y.shape[1], before.shape[1] if changes else None, stride, kind)

        block.register_forward_hook(hook)

    for block_name, module in model.named_modules():
        if isinstance(module, ResidualBlock):
            note(block_name, module)
    with torch.no_grad():
        model(images)
    return found


SHORTCUTS = {"identity": "IdentityShortcut", "projection": "ProjectionShortcut", "padding": "ZeroPadShortcut"}


@pytest.mark.parametrize("network", NETWORKS)
def test_tails_are_those_of_the_networks(network: str) -> None:
    """Every block of the model is in the table, and every row of the table is a block."""
    blocks = tails_of(network)
    for shape in NETWORKS[network]:
        expected = (shape.size, shape.inner, shape.channels, shape.before, shape.stride, SHORTCUTS[shape.shortcut])
        assert blocks[shape.block] == expected
        assert sum(tail == expected for tail in blocks.values()) == shape.blocks
    assert sum(shape.blocks for shape in NETWORKS[network]) == len(blocks)


def test_distinct_tails_tell_all_their_networks() -> None:
    tails = distinct(NETWORKS)
    assert len({tail.shape.name for tail in tails}) == len(tails) == 30
    for network, shapes in NETWORKS.items():
        assert sum(tail.blocks.get(network, 0) for tail in tails) == sum(shape.blocks for shape in shapes)
    by_name = {tail.shape.name: tail.blocks for tail in tails}
    assert by_name["resnet50 layer3.1 projection+identity"] == {"resnet50": 5, "resnet101": 22, "resnet152": 35}
    assert by_name["resnet18 layer3.1 direct+identity"] == {"resnet18": 1, "resnet34": 5}


def test_counted_bytes_are_each_tensor_once_and_in_training_each_input_twice() -> None:
    shape = TailShape("net", "layer1.0", 1, 4, inner=3, channels=10, before=5, stride=2, batch=2)
    rows = 2 * 4 * 4
    assert counted_bytes(shape, False, 2) == rows * (3 + 5 + 10) * 2
    assert counted_bytes(shape, True, 2) == rows * (2 * 3 + 2 * 5 + 10) * 2
    direct = TailShape("net", "layer1.0", 1, 4, inner=None, channels=10, batch=2)
    assert counted_bytes(direct, True, 2) == rows * (2 * 10 + 10 + 10) * 2


def test_counted_bytes_of_both_directions_add_those_of_backward() -> None:
    def backward(shape: TailShape, training: bool) -> int:
        forward, both = (counted_bytes(shape, training, 2, backward=b) for b in (False, True))
        return (both - forward) // (2 * 4 * 4 * 2)

    # Ten channels have two bytes of the mask, which is as much as one element. It is written, and read with dy.
    # dy and both x are read; dy again, both dx are written, the strided one at four times the pixels.
    shape = TailShape("net", "layer1.0", 1, 4, inner=3, channels=10, before=5, stride=2, batch=2)
    frozen = 1 + (10 + 1) + 3 + 5 + (10 + 1) + 3 + 4 * 5
    assert backward(shape, False) == frozen
    assert backward(shape, True) == frozen + 3 + 5  # x once more
    # The norm's input is read with g, in training once more; dz is written, and the identity's gradient is g.
    direct = TailShape("net", "layer1.0", 1, 4, inner=None, channels=10, batch=2)
    assert backward(direct, False) == 1 + (10 + 1) + 4 * 10
    assert backward(direct, True) == 1 + (10 + 1) + 5 * 10


@pytest.mark.parametrize("training", [True, False])
def test_tail_computes_the_same_in_both_ways(training: bool) -> None:
    tail = Tail(RESNET50[2].shrunk(2, 5, 16), torch.float32).train(training)
    inputs = tail.inputs("cpu", torch.float32)
    exact = copy.deepcopy(tail).double()(*(x.double() for x in inputs))
    for way in (tail, tail.fused):
        assert relative_error(way(*inputs).detach(), exact.detach()) < 1e-5


class CountingClock:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, call: timing.Call) -> timing.Sample:
        self.calls.append(str(call()))
        return timing.Sample(len(self.calls) * 1.0, 0.5)


def test_rounds_take_all_in_turn_and_warm_up_is_left_out() -> None:
    clock = CountingClock()
    measured = timing.measure({"a": lambda: "a", "b": lambda: "b"}, clock, runs=3, warm_up=1)
    assert clock.calls == ["b", "a", "a", "b"] * 2
    assert measured["a"].device.median == 6.0
    assert measured["b"].host.median == 0.5


def test_option_a_is_computed_fused_as_by_its_modules() -> None:
    shape = NETWORKS["resnet20"][1].shrunk(2, 5, 1)
    assert shape.kind == "direct+padding"
    tail = Tail(shape, torch.float32)
    inputs = tail.inputs("cpu", torch.float32)
    assert relative_error(tail.fused(*inputs).detach(), tail(*inputs).detach().double()) < 1e-5


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_zeroed_tail_gives_the_same_once_it_is_filled(mode: Mode) -> None:
    """What tests on streams and of graphs rest on."""
    given = LateTail.of(mode, "cpu", torch.float32, batch=2, size=5)
    late = given.zeroed()
    expected, before = given.results(given.copied()), late.results(given.copied())
    late.fill(given)
    after = late.results(given.copied())
    assert any("gradient" in name for name in expected) is mode.backward
    assert not torch.equal(before["output"], expected["output"])
    assert all(torch.equal(after[name], tensor) for name, tensor in expected.items())


def test_no_gradient_comes_in_where_rounding_decides_the_relu() -> None:
    z = torch.randn(4, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    rounded = z + 0.02 * torch.randn_like(z)
    gradient = incoming_gradient(z)
    assert not torch.equal(z > 0, rounded > 0)
    assert torch.equal(gradient * (z > 0), gradient * (rounded > 0))
    assert (gradient != 0).float().mean() > 0.8
    assert gradient.is_contiguous(memory_format=torch.channels_last)
