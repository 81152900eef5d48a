"""Additions, in a graph and in code."""

from __future__ import annotations

import dis
import operator
from functools import cache
from types import CodeType, FunctionType

import torch
from torch import fx, nn

from .leaves import unfused_class

_OPERATIONS = {("BINARY_OP", "+"), ("BINARY_OP", "+="), ("BINARY_ADD", ""), ("INPLACE_ADD", "")}  # by version of Python
_NAMES = {"add", "add_", "iadd", "sum"}


def operands(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The two values of the graph that a node adds; None where it does something else."""
    function = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    method = node.op == "call_method" and node.target in ("add", "add_")
    if not (function or method) or not node.kwargs.keys() <= {"input", "other", "alpha"}:
        return None
    named = (node.kwargs[name] for name in ("input", "other") if name in node.kwargs)
    match [*node.args, *named]:
        case [fx.Node() as left, fx.Node() as right]:
            return left, right
    return None


def adds_in_place(addition: fx.Node) -> bool:
    """Whether an addition writes to its first operand."""
    return addition.target in (operator.iadd, "add_")


def may_add(module: nn.Module) -> bool:
    """Whether a method of the module's class, or of those that it inherits from, adds anything."""
    mro = unfused_class(module).__mro__
    methods = (method for base in mro[: mro.index(nn.Module)] for method in vars(base).values())
    codes = (method.__code__ for method in methods if isinstance(method, FunctionType))
    return any(_adds(code) for code in codes if not code.co_name.startswith("__"))


@cache
def _adds(code: CodeType) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    operations = ((of.opname, of.argrepr) for of in dis.get_instructions(code))
    return not _NAMES.isdisjoint(code.co_names) or not _OPERATIONS.isdisjoint(operations) or any(map(_adds, inner))
