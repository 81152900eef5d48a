"""Finds residual tails in a block's graph: from an addition, back through norms and 1x1 convolutions, on to a relu.

A tail takes as much as it can without a visible difference. What it must not take:

- what something else reads, or what runs more than once: it would be computed twice or not at all;
- modules that a tail cannot stand for (`fused_resnet.modules.refusal`);
- what reads memory that is overwritten before the tail runs, since a tail runs where its last operation ran;
- an addition in place into memory that somebody else may see, since a tail writes elsewhere.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from ..modules import geometry_refusal, is_pointwise, refusal
from .aliasing import Aliasing
from .leaves import is_block, opacity

_RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)


# What may stand in the place of each kind of module, and then is either taken or reported.
_FAMILIES: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    nn.Identity: (nn.Identity,),
    nn.BatchNorm2d: (_NormBase, nn.GroupNorm, nn.LayerNorm),
    nn.Conv2d: (nn.Conv2d,),
}


@dataclass
class Part:
    """One branch as found.

    Attributes:
        source: the node whose value the branch starts from.
        nodes: what is taken, last first.
        conv, norm: paths of the modules taken.
        modules: path and kind of every module taken.
        padding, stride: zero channels before and after, and subsampling, of a padded identity.
    """

    source: fx.Node
    nodes: list[fx.Node] = field(default_factory=list)
    conv: str | None = None
    norm: str | None = None
    modules: list[tuple[str, type[nn.Module]]] = field(default_factory=list)
    padding: tuple[int, int] | None = None
    stride: int = 1

    @property
    def is_identity(self) -> bool:
        return self.conv is None and self.norm is None and self.padding is None

    def describe(self) -> str:
        if self.padding is not None:
            return "zero pad"
        return " + ".join(path for path in (self.conv, self.norm) if path) or "identity"


@dataclass
class Tail:
    """A tail as found."""

    main: Part
    shortcut: Part
    addition: fx.Node
    relu: fx.Node | None

    @property
    def last(self) -> fx.Node:
        return self.addition if self.relu is None else self.relu

    def nodes(self) -> list[fx.Node]:
        """What the tail replaces, in the graph's order."""
        taken = {*self.main.nodes, *self.shortcut.nodes, self.addition, self.last}
        return [node for node in self.addition.graph.nodes if node in taken]

    def describe(self) -> str:
        parts = [self.main.describe(), self.shortcut.describe(), *([] if self.relu is None else ["relu"])]
        return " + ".join(parts)


class Matcher:
    """The tails of one block.

    Attributes:
        tails: in the order of the graph.
        refused: path of a module, or "" for the block, to the reason why it stays out of a tail.
        outside: path of a convolution that feeds a tail to the reason why it is not a projection.
    """

    def __init__(self, graph: fx.Graph, block: nn.Module) -> None:
        self.tails: list[Tail] = []
        self.refused: dict[str, str] = {}
        self.outside: dict[str, str] = {}
        self._block = block
        self._aliasing = Aliasing(graph, block)
        self._called = [self._module(node) for node in graph.nodes]
        for node in graph.nodes:
            if is_addition(node) and not node.meta["nested"]:
                self._match(node)

    def _match(self, addition: fx.Node) -> None:
        left, right = addition.args
        assert isinstance(left, fx.Node)
        assert isinstance(right, fx.Node)
        tail = Tail(self._part(left, addition), self._part(right, addition), addition, self._relu(addition))
        tail.main = self._unless_overwritten(tail.main, left, tail)
        tail.shortcut = self._unless_overwritten(tail.shortcut, right, tail)
        if tail.relu is None and tail.main.is_identity and tail.shortcut.is_identity:
            return
        reason = self._addition_refusal(tail, left)
        if reason is None:
            self.tails.append(tail)
        else:
            self.refused[""] = reason

    def _unless_overwritten(self, part: Part, operand: fx.Node, tail: Tail) -> Part:
        if not part.nodes or not self._aliasing.overwritten(part.source, part.nodes[-1], tail.last, tail.nodes()):
            return part
        self.refused[part.modules[-1][0] if part.modules else ""] = "its input is overwritten before the addition"
        return Part(operand)

    def _addition_refusal(self, tail: Tail, left: fx.Node) -> str | None:
        addition = tail.addition
        if addition.kwargs.get("alpha", 1) != 1:
            return f"the addition has alpha={addition.kwargs['alpha']}"
        if adds_in_place(addition) and not tail.main.nodes and not self._aliasing.private(left):
            return "the addition is in place, in memory that may be read elsewhere"
        sources = (tail.main.source, tail.shortcut.source)
        if any(self._aliasing.overwritten(node, addition, tail.last, tail.nodes()) for node in sources):
            return "an operand is overwritten between the addition and the relu"
        return None

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._block.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _relu(self, addition: fx.Node) -> fx.Node | None:
        """The relu that is the sum's only reader."""
        reader = next(iter(addition.users)) if len(addition.users) == 1 else addition
        if reader.op == "call_function" and reader.target in _RELU_FUNCTIONS:
            return reader
        if reader.op == "call_method" and reader.target in ("relu", "relu_"):
            return reader
        module = self._module(reader)
        if not isinstance(module, nn.ReLU):
            return None
        reason = refusal(module, nn.ReLU)
        if reason is None:
            return reader
        self.refused[str(reader.target)] = reason
        return None

    def _part(self, operand: fx.Node, addition: fx.Node) -> Part:
        """What can be taken of the branch that ends in an operand of the addition."""
        part = Part(operand)
        if addition.args[0] is addition.args[1]:
            return part
        self._take_identities(part, addition)
        if self._take(part, nn.BatchNorm2d, addition):
            part.norm = part.modules[-1][0]
            self._take_identities(part, addition)
        if self._take(part, nn.Conv2d, addition):
            part.conv = part.modules[-1][0]
        self._report_opaque(part.source)
        return _zero_pad(operand, addition) if part.is_identity else part

    def _report_opaque(self, node: fx.Node) -> None:
        """Reports a module that might have been looked into, such as a hooked ``downsample``."""
        module = self._module(node)
        reason = opacity(module) if module is not None and is_block(module) else None
        if reason is not None:
            self.refused[str(node.target)] = reason

    def _take_identities(self, part: Part, addition: fx.Node) -> None:
        while self._take(part, nn.Identity, addition):
            pass

    def _take(self, part: Part, kind: type[nn.Module], addition: fx.Node) -> bool:
        """Moves the part's source over a module of a kind, if there is one and it can be taken."""
        node, module = part.source, self._module(part.source)
        if not isinstance(module, _FAMILIES[kind]) or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            return False
        path = str(node.target)
        if isinstance(module, nn.Conv2d) and not is_pointwise(module):
            self.outside[path] = geometry_refusal(module) or ""
            return False
        reason = self._refusal(node, module, kind, part.nodes[-1] if part.nodes else addition)
        if reason is not None:
            self.refused[path] = reason
            return False
        part.nodes.append(node)
        part.modules.append((path, kind))
        part.source = node.args[0]
        return True

    def _refusal(self, node: fx.Node, module: nn.Module, kind: type[nn.Module], reader: fx.Node) -> str | None:
        if set(node.users) != {reader}:
            return "its output is read elsewhere"
        if kind is nn.BatchNorm2d and sum(module is called for called in self._called) > 1:
            return "it is called more than once"
        return refusal(module, kind)


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two values of the graph."""
    function = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    method = node.op == "call_method" and node.target in ("add", "add_")
    of_two = len(node.args) == 2 and all(isinstance(operand, fx.Node) for operand in node.args)
    return (function or method) and of_two and node.kwargs.keys() <= {"alpha"}


def adds_in_place(addition: fx.Node) -> bool:
    """Whether an addition writes to its first operand."""
    return addition.target in (operator.iadd, "add_")


def _zero_pad(operand: fx.Node, addition: fx.Node) -> Part:
    """Option A: ``F.pad`` of channels, with or without subsampling by slices ahead of it."""
    part = Part(operand)
    padding = _channel_padding(operand)
    source = operand.args[0] if operand.args else None
    if padding is None or not isinstance(source, fx.Node) or set(operand.users) != {addition}:
        return part
    part.nodes, part.source, part.padding = [operand], source, padding
    stride = _subsampling_stride(source)
    if stride is not None and isinstance(source.args[0], fx.Node) and set(source.users) == {operand}:
        part.nodes.append(source)
        part.source, part.stride = source.args[0], stride
    return part


def _channel_padding(node: fx.Node) -> tuple[int, int] | None:
    """Zero channels before and after, if the node pads with these alone and `ZeroPad` can say so."""
    if node.op != "call_function" or node.target is not F.pad:
        return None
    names = ("input", "pad", "mode", "value")
    arguments = {"mode": "constant", "value": None, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    pad: Any = arguments.get("pad")
    if arguments["mode"] != "constant" or arguments["value"] not in (None, 0) or not isinstance(pad, (tuple, list)):
        return None
    if len(pad) != 6 or any(pad[:4]) or not all(isinstance(n, int) and n >= 0 for n in pad):
        return None
    before, after = pad[4:]
    return (before, after) if before in (0, (before + after) // 2) else None


def _subsampling_stride(node: fx.Node) -> int | None:
    """s of ``x[:, :, ::s, ::s]`` or ``x[..., ::s, ::s]``."""
    index: Any = node.args[1] if node.op == "call_function" and node.target is operator.getitem else None
    if not isinstance(index, tuple):
        return None
    if index[:1] == (Ellipsis,):
        index = (slice(None), slice(None), *index[1:])
    if len(index) != 4 or not all(isinstance(i, slice) and i.start in (None, 0) and i.stop is None for i in index):
        return None
    strides = [1 if i.step is None else i.step for i in index]
    uniform = strides[:2] == [1, 1] and strides[2] == strides[3] and isinstance(strides[2], int)
    return strides[2] if uniform else None
