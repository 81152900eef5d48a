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


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two values of the graph."""
    function = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    method = node.op == "call_method" and node.target in ("add", "add_")
    of_two = len(node.args) == 2 and all(isinstance(operand, fx.Node) for operand in node.args)
    return (function or method) and of_two and node.kwargs.keys() <= {"alpha"}


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
