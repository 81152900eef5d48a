"""What a block's forward reads besides its input counts as it is at each call; what it records is recorded."""

import copy
import functools
import random
import sys
import types
from collections import defaultdict, deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from user_blocks import WHOLE_TAIL, Block, copies, draw

import fused_resnet

SCALE = 1.0
NESTED = SimpleNamespace(inner={"scale": 1.0})


@dataclass
class Options:
    scale: float = 1.0
    scales: list[float] = field(default_factory=lambda: [1.0])


class Slotted:
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 1.0


class Looked:
    """As configurations of other libraries give their values."""

    def __init__(self) -> None:
        self._content = {"scale": 1.0}

    def __getattr__(self, name: str) -> float:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._content[name]


Looked.__module__ = "another_library"


class Scaled(Block):
    """A Block whose main branch is multiplied by a setting."""

    scale = 1.0

    def __init__(self, setting=None) -> None:
        super().__init__()
        self.setting = setting

    def method(self) -> float:
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        out, shortcut = self.branches(x)
        return self.relu(out * type(self).read(self) + shortcut)


def of(read, setting):
    """A Scaled that reads its setting in a way of its own."""
    return type("Reads", (Scaled,), {"read": read})(setting)


def set_global(value: float) -> None:
    global SCALE
    SCALE = value


def with_closure():
    scale = 1.0

    def change() -> None:
        nonlocal scale
        scale = 3.0

    return lambda self: scale, change


def helper(options: Options) -> float:
    return options.scale


READ_CLOSURE, CHANGE_CLOSURE = with_closure()
# How a forward reads the setting, the setting at first, and what changes it.
SETTINGS = {
    "an attribute of an object": (
        lambda self: self.setting.scale,
        SimpleNamespace(scale=1.0),
        lambda block: setattr(block.setting, "scale", 3.0),
    ),
    "another object": (
        lambda self: self.setting.scale,
        SimpleNamespace(scale=1.0),
        lambda block: setattr(block, "setting", SimpleNamespace(scale=3.0)),
    ),
    "an attribute that is looked up": (
        lambda self: getattr(self.setting, "sc" + "ale"),
        SimpleNamespace(scale=1.0),
        lambda block: setattr(block.setting, "scale", 3.0),
    ),
    "an attribute of slots": (
        lambda self: self.setting.scale,
        Slotted(),
        lambda block: setattr(block.setting, "scale", 3.0),
    ),
    "an attribute of another library's": (
        lambda self: self.setting.scale,
        Looked(),
        lambda block: block.setting._content.update(scale=3.0),
    ),
    "an item of an item": (
        lambda self: self.setting["a"]["scale"],
        {"a": {"scale": 1.0}},
        lambda block: block.setting["a"].update(scale=3.0),
    ),
    "an element of an element": (
        lambda self: self.setting[0][0],
        [[1.0]],
        lambda block: block.setting[0].__setitem__(0, 3.0),
    ),
    "an element of a dataclass's list": (
        lambda self: self.setting.scales[-1],
        Options(),
        lambda block: block.setting.scales.append(3.0),
    ),
    "what a function reads": (
        lambda self: helper(self.setting),
        Options(),
        lambda block: setattr(block.setting, "scale", 3.0),
    ),
    "members of a set in a tuple": (
        lambda self: 3.0 if "large" in self.setting[0] else 1.0,
        ({"small"},),
        lambda block: block.setting[0].add("large"),
    ),
    "an argument of a partial function": (
        lambda self: self.setting(),
        functools.partial(helper, Options()),
        lambda block: setattr(block.setting.args[0], "scale", 3.0),
    ),
    "an attribute of the class": (
        lambda self: self.scale,
        None,
        lambda block: setattr(Scaled, "scale", 3.0),
    ),
    "an attribute in the place of the class's": (
        lambda self: self.scale,
        None,
        lambda block: setattr(block, "scale", 3.0),
    ),
    "an attribute that was not there": (
        lambda self: getattr(self, "extra", 1.0),
        None,
        lambda block: setattr(block, "extra", 3.0),
    ),
    "a method of the class": (
        lambda self: self.method(),
        None,
        lambda block: setattr(Scaled, "method", lambda self: 3.0),
    ),
    "a global": (lambda self: SCALE, None, lambda block: set_global(3.0)),
    "an item behind a global": (
        lambda self: NESTED.inner["scale"],
        None,
        lambda block: NESTED.inner.update(scale=3.0),
    ),
    "an attribute of a module of Python": (
        lambda self: settings.scale,
        None,
        lambda block: setattr(settings, "scale", 3.0),
    ),
    "a variable of a function around": (READ_CLOSURE, None, lambda block: CHANGE_CLOSURE()),
    "an attribute of a child": (
        lambda self: self.relu.negative_slope,
        None,
        lambda block: setattr(block.relu, "negative_slope", 3.0),
    ),
}
settings = types.ModuleType("settings")


@pytest.fixture
def first_values(monkeypatch):
    """Puts back what a test changes for all."""
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 1.0)
    monkeypatch.setattr(Scaled, "scale", 1.0)
    monkeypatch.setattr(Scaled, "method", Scaled.method)
    monkeypatch.setitem(NESTED.inner, "scale", 1.0)
    monkeypatch.setattr(settings, "scale", 1.0, raising=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_changed_counts(name, first_values, computed_tails):
    read, setting, change = SETTINGS[name]
    block = of(read, copy.deepcopy(setting)).double().eval()
    block.relu.negative_slope = 1.0
    original = copy.deepcopy(block)
    assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL.replace("conv2 + bn2", "identity")}
    twin = copy.deepcopy(block)
    x = draw()
    before = block(x)
    assert len(computed_tails) == 1
    for model in (block, original, twin):
        change(model)
    expected = original(x)
    assert not torch.allclose(before, expected)
    for model in (block, twin):
        torch.testing.assert_close(model(x), expected)
    fused_resnet.fuse(block)
    torch.testing.assert_close(block(x), expected)
    assert len(computed_tails) == 2


def test_equal_settings_leave_a_block_fused(computed_tails):
    block = of(lambda self: self.setting.scale, SimpleNamespace(scale=1.5, unread=1)).double()
    fused_resnet.fuse(block)
    for setting in (SimpleNamespace(scale=1.5, unread=2), SimpleNamespace(scale=float("1.5"))):
        block.setting = setting
        block(draw())
    assert len(computed_tails) == 2


def test_a_compiled_block_follows_its_settings():
    block, original = copies(of(lambda self: self.setting.scale * SCALE * self.scale, SimpleNamespace(scale=1.0)))
    fused_resnet.fuse(block)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    x = draw()
    for scale in (1.0, 3.0):
        for model in (block, original):
            model.setting.scale = scale
        torch.testing.assert_close(compiled(x), original(x))


@pytest.mark.parametrize(
    "setting",
    [iter([1.0, 3.0]), np.ones(1), random.Random(0), bytearray(b"a")],
    ids=lambda setting: type(setting).__name__,
)
def test_a_setting_whose_changes_cannot_be_seen_is_refused(setting):
    block = of(lambda self: 1.0 if self.setting else 2.0, setting)
    report = fused_resnet.fuse(block)
    assert report.refused[""] == f"its forward may read Reads.setting, a {type(setting).__name__}, which changes unseen"


def test_a_number_read_out_of_a_tensor_is_refused():
    block = of(lambda self: float(self.setting), torch.ones(()))
    assert "reads a number out of a tensor" in fused_resnet.fuse(block).refused[""]


def test_very_many_values_are_refused():
    block = of(lambda self: self.setting[0], [1.0] * 20_001)
    assert "more than 20,000 values" in fused_resnet.fuse(block).refused[""]


def test_a_module_outside_of_the_block_is_refused():
    """Its hooks and its mode would not be seen."""
    block = of(lambda self: 1.0, [nn.Dropout(0.5)])
    type(block).forward = lambda self, x: self.setting[0](Block.forward(self, x))
    assert "calls a Dropout that is not part of it" in fused_resnet.fuse(block).refused[""]


class Meter:
    def __init__(self) -> None:
        self.sum, self.count = 0, 0

    def update(self, value) -> None:
        self.sum, self.count = self.sum + value, self.count + 1


class Recording(Block):
    seen: ClassVar[list] = []

    def __init__(self, store, record) -> None:
        super().__init__()
        self.store, self.record = store, record

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.record(self, y)
        return y


FAR_AWAY: list = []
RECORDS = {
    "an item's list": ({"out": []}, lambda self, y: self.store["out"].append(y), lambda self: self.store["out"]),
    "a defaultdict": (defaultdict(list), lambda self, y: self.store["out"].append(y), lambda self: self.store["out"]),
    "a deque": (deque([0]), lambda self, y: self.store.append(y), lambda self: [*self.store][1:]),
    "a tuple in a list": ([], lambda self, y: self.store.append(("out", y)), lambda self: [y for _, y in self.store]),
    "a shape": ([], lambda self, y: self.store.append(y.shape), lambda self: self.store),
    "an attribute of a meter": (Meter(), lambda self, y: self.store.update(y.sum()), lambda self: [self.store.sum]),
    "the class's list": (None, lambda self, y: type(self).seen.append(y), lambda self: self.seen),
    "a list of another module's": (None, lambda self, y: keep(y), lambda self: FAR_AWAY),
    "an attribute of the block": (None, lambda self, y: setattr(self, "store", y), lambda self: [self.store]),
}
# As from a package whose functions are not looked into.
keep = types.FunctionType(
    compile("keep = lambda y: FAR_AWAY.append(y)", "elsewhere", "exec").co_consts[0],
    {"FAR_AWAY": FAR_AWAY, "__name__": "elsewhere"},
)


@pytest.mark.parametrize("name", RECORDS)
def test_what_a_forward_records_is_recorded(name):
    store, record, recorded = RECORDS[name]
    block = Recording(store, record).double()
    original = copy.deepcopy(block)
    before = copy.deepcopy(store)
    lists = block.store, Recording.seen, FAR_AWAY
    report = fused_resnet.fuse(block)
    assert not report.fused
    assert report.refused[""].startswith(("its forward writes to", "its forward keeps"))
    assert (block.store, Recording.seen, FAR_AWAY) == lists
    if not isinstance(store, Meter):
        assert block.store == before
    x = draw()
    found = []
    for model in (block, original):
        model(x)
        found.append(list(recorded(model)))
        del Recording.seen[:], FAR_AWAY[:]
    assert found[0]
    torch.testing.assert_close(*found)
