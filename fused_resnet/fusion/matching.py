"""Finds residual tails in a block's graph: from an addition, back through norms and 1x1 convolutions, on to a relu.

A tail takes as much as it can without a visible difference. What it must not take:

- what something else reads, or what runs more than once: it would be computed twice or not at all;
- modules that a tail cannot stand for (`fused_resnet.conversion.modules.refusal`);
- what reads memory that is overwritten before the tail runs, since a tail runs where its last operation ran;
- an addition in place into memory that somebody else may see, since a tail writes elsewhere.

A norm that no addition takes is a tail by itself, with the relu behind it, where that is asked for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import activation as _activations
from torch.nn.modules.batchnorm import _NormBase

from ..conversion.frozen_norms import FrozenNorm, frozen_norm
from ..conversion.modules import geometry_refusal, is_pointwise, refusal
from .additions import adds_in_place, operands
from .aliasing import Aliasing
from .found import Part, Tail
from .leaves import is_block, is_norm, opacity
from .zero_pad import zero_pad

# Why a norm is left, unless it is asked for.
BY_ITSELF = "no addition follows: fuse(model, norms=True) takes it by itself"
_RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
# What may stand in the place of each kind of module, and then is either taken or reported.
_FAMILIES: dict[type, tuple[type[nn.Module], ...]] = {
    nn.Identity: (nn.Identity,),
    nn.BatchNorm2d: (_NormBase, nn.GroupNorm, nn.LayerNorm),
    nn.Conv2d: (nn.Conv2d,),
}
_ACTIVATIONS = tuple(vars(_activations)[name] for name in _activations.__all__ if name != "ReLU")
_ACTIVATION_FUNCTIONS = {"celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "prelu"}
_ACTIVATION_FUNCTIONS |= {"relu6", "rrelu", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"}


class Matcher:
    """The tails of one block.

    Attributes:
        tails: in the order of the graph; norms by themselves last.
        refused: path of a module, or "" for the block, to the reason why it stays out of a tail.
        left: path of a norm, or "" for an addition, that is no tail or part of one, to the reason.
        outside: path of a convolution that feeds a tail to the reason why it is not a projection.
        open_ended: whether the block ends in what a tail around it may take.
    """

    def __init__(self, graph: fx.Graph, block: nn.Module, norms: bool = False) -> None:
        """`norms`: whether norms that no addition takes become tails by themselves."""
        self.tails: list[Tail] = []
        self.refused: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.outside: dict[str, str] = {}
        self._block = block
        self._aliasing = Aliasing(graph, block)
        self._called = [self._module(node) for node in graph.nodes]
        for node in graph.nodes:
            added = operands(node)
            if added is not None and not node.meta["nested"]:
                self._match(node, *added)
        taken = {node for tail in self.tails for node in tail.nodes()}
        for node in graph.nodes:
            if node not in taken and is_norm(self._module(node)):
                self._match_norm(node, norms)
        ends = [self._module(node) for node in next(reversed(graph.nodes)).all_input_nodes]
        self.open_ended = any(is_norm(end) or isinstance(end, (nn.Identity, nn.Conv2d)) for end in ends)

    def _match(self, addition: fx.Node, left: fx.Node, right: fx.Node) -> None:
        main, shortcut = self._part(left, addition), self._part(right, addition)
        tail = Tail(main, shortcut, addition, self._relu(addition))
        tail.main = self._unless_overwritten(main, left, tail)
        tail.shortcut = self._unless_overwritten(shortcut, right, tail)
        if tail.relu is None and all(part.is_identity for part in tail.parts):
            _note(self.left, "an addition alone, with no norm ahead of it and no relu behind it")
            return
        reason = self._addition_refusal(tail, addition, left)
        if reason is None:
            self.tails.append(tail)
        else:
            _note(self.refused, reason)

    def _match_norm(self, node: fx.Node, wanted: bool) -> None:
        """A norm that no addition takes, with the relu behind it; there may be identities between them."""
        path, end = str(node.target), node
        if path in self.refused:
            return
        while (reader := self._reader(end)) is not None and isinstance(self._module(reader), nn.Identity):
            end = reader
        activation = self._activation(end)
        if activation is not None:
            self.left[path] = f"{activation} follows: the kernels have no epilogue of it, and no derivative"
            return
        if not wanted:
            self.left[path] = BY_ITSELF
            return
        relu = self._relu(end)
        part = Part(node if relu is None else end)
        self._take_identities(part, relu)
        if self._take_norm(part, relu):
            tail = Tail(part, None, None, relu, _has_relu(self._module(node)))
            if self._aliasing.overwritten(part.source, node, tail.last, tail.nodes()):
                self.left[path] = "its input is overwritten ahead of the relu"
            else:
                self.tails.append(tail)

    def _activation(self, node: fx.Node) -> str | None:
        """The name of what the norm's value goes through, where that is neither a relu nor linear."""
        for reader in node.users:
            module = self._module(reader)
            name = str(reader.target) if reader.op == "call_method" else getattr(reader.target, "__name__", "")
            if isinstance(module, _ACTIVATIONS):
                return type(module).__name__
            if module is None and name.rstrip("_") in _ACTIVATION_FUNCTIONS:
                return name
        return None

    def _unless_overwritten(self, part: Part, operand: fx.Node, tail: Tail) -> Part:
        if not part.nodes or not self._aliasing.overwritten(part.source, part.nodes[-1], tail.last, tail.nodes()):
            return part
        self.refused[part.modules[-1][0] if part.modules else ""] = "its input is overwritten before the addition"
        return Part(operand)

    def _addition_refusal(self, tail: Tail, addition: fx.Node, left: fx.Node) -> str | None:
        if addition.kwargs.get("alpha", 1) != 1:
            return f"the addition has alpha={addition.kwargs['alpha']}"
        if adds_in_place(addition) and not tail.main.nodes and not self._aliasing.private(left):
            return "the addition is in place, in memory that may be read elsewhere"
        sources = [part.source for part in tail.parts]
        if any(self._aliasing.overwritten(node, addition, tail.last, tail.nodes()) for node in sources):
            return "an operand is overwritten between the addition and the relu"
        return None

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._block.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _reader(self, node: fx.Node) -> fx.Node | None:
        """The value's only reader; None where there are others."""
        return next(iter(node.users)) if len(node.users) == 1 else None

    def _relu(self, node: fx.Node) -> fx.Node | None:
        """The relu that is the value's only reader."""
        reader = self._reader(node)
        if reader is None:
            return None
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
        if operands(addition) == (operand, operand):
            return part
        self._take_identities(part, addition)
        if not _has_relu(self._module(part.source)) and self._take_norm(part, addition):
            self._take_identities(part, addition)
        if self._take(part, nn.Conv2d, addition):
            part.conv = part.modules[-1][0]
        self._report_opaque(part.source)
        return zero_pad(operand, addition) if part.is_identity else part

    def _report_opaque(self, node: fx.Node) -> None:
        """Reports a module that might have been looked into, such as a hooked ``downsample``."""
        module = self._module(node)
        reason = opacity(module) if module is not None and is_block(module) else None
        if reason is not None:
            self.refused[str(node.target)] = reason

    def _take_identities(self, part: Part, reader: fx.Node | None) -> None:
        while self._take(part, nn.Identity, reader):
            pass

    def _take_norm(self, part: Part, reader: fx.Node | None) -> bool:
        module = self._module(part.source)
        frozen = module is not None and frozen_norm(module) is not None
        if self._take(part, FrozenNorm if frozen else nn.BatchNorm2d, reader):
            part.norm = part.modules[-1][0]
        return part.norm is not None

    def _take(self, part: Part, kind: type, reader: fx.Node | None) -> bool:
        """Moves the part's source over a module of a kind, if there is one and it can be taken.

        `reader`: what must be the value's only reader; None where there may be any.
        """
        node, module = part.source, self._module(part.source)
        family = _FAMILIES.get(kind, nn.Module)
        if not isinstance(module, family) or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            return False
        path = str(node.target)
        if isinstance(module, nn.Conv2d) and not is_pointwise(module):
            self.outside[path] = geometry_refusal(module) or ""
            return False
        reason = self._refusal(node, module, kind, part.nodes[-1] if part.nodes else reader)
        if reason is not None:
            self.refused[path] = reason
            return False
        part.nodes.append(node)
        part.modules.append((path, kind))
        part.source = node.args[0]
        return True

    def _refusal(self, node: fx.Node, module: nn.Module, kind: type, reader: fx.Node | None) -> str | None:
        if reader is not None and set(node.users) != {reader}:
            return "its output is read elsewhere"
        if kind in (nn.BatchNorm2d, FrozenNorm) and sum(module is called for called in self._called) > 1:
            return "it is called more than once"
        return refusal(module, kind)


def _has_relu(module: nn.Module | None) -> bool:
    """Whether it is a frozen norm with a relu in it."""
    frozen = None if module is None else frozen_norm(module)
    return frozen is not None and frozen.relu


def _note(reasons: dict[str, str], reason: str) -> None:
    """Adds the reason of one of the block's additions to those of the others."""
    others = reasons.get("", reason)
    reasons[""] = others if reason in others else f"{others}; {reason}"
