"""Which nodes of a graph may share memory, and which overwrite it."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from ..conversion.frozen_norms import frozen_norm
from .leaves import is_block

IN_PLACE_OPERATORS = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul")

_ALLOCATING_MODULES = (_ConvNd, _NormBase, _AvgPoolNd, _MaxPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, nn.Linear)
_ALLOCATING_FUNCTIONS = {
    operator.add,
    operator.mul,
    operator.sub,
    operator.truediv,
    torch.add,
    torch.cat,
    torch.mul,
    torch.sigmoid,
    torch.sub,
    F.avg_pool2d,
    F.batch_norm,
    F.conv2d,
    F.max_pool2d,
}


class Aliasing:
    """Memory in a block's graph, judged cautiously: what is not known to allocate may return its inputs' memory."""

    def __init__(self, graph: fx.Graph, block: nn.Module) -> None:
        self._block = block
        self._order = {node: i for i, node in enumerate(graph.nodes)}
        self._memory: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in graph.nodes:
            inherited = [] if self._allocates(node) else [self._memory[n] for n in node.all_input_nodes]
            self._memory[node] = frozenset({node}).union(*inherited)
        self._writes = [(node, written) for node in graph.nodes for written in self._written(node)]

    def overwritten(self, node: fx.Node, since: fx.Node, until: fx.Node, tail: list[fx.Node]) -> bool:
        """Whether the node's memory may be written between two nodes, other than by the tail itself."""
        span = range(self._order[since] + 1, self._order[until])
        return any(
            self._order[writer] in span and writer not in tail and self._memory[written] & self._memory[node]
            for writer, written in self._writes
        )

    def private(self, node: fx.Node) -> bool:
        """Whether only the node's one reader can ever see its memory."""
        if len(node.users) != 1 or node.op in ("placeholder", "get_attr"):
            return False
        return self._allocates(node) or all(self.private(source) for source in node.all_input_nodes)

    def _allocates(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self._block.get_submodule(str(node.target))
            return isinstance(module, _ALLOCATING_MODULES) or frozen_norm(module) is not None
        return node.op == "call_function" and node.target in _ALLOCATING_FUNCTIONS

    def _written(self, node: fx.Node) -> Iterator[fx.Node]:
        """The operands that a node overwrites."""
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        in_place = node.op in ("call_method", "call_function") and (
            (name.endswith("_") and not name.endswith("__")) or bool(node.kwargs.get("inplace"))
        )
        if name in IN_PLACE_OPERATORS:
            in_place = True
        if node.op == "call_module":
            module = self._block.get_submodule(str(node.target))
            if is_block(module):  # a leaf whose forward is not known, such as a block fused by itself
                yield from node.all_input_nodes
                return
            in_place = bool(getattr(module, "inplace", False))
        if in_place and node.args and isinstance(node.args[0], fx.Node):
            yield node.args[0]
        out = node.kwargs.get("out")
        if isinstance(out, fx.Node):
            yield out
