"""Option A in a block's graph: channels padded with zeros, every so many pixels."""

from __future__ import annotations

import operator
from typing import Any

import torch.nn.functional as F
from torch import fx

from .found import Part


def zero_pad(operand: fx.Node, addition: fx.Node) -> Part:
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
