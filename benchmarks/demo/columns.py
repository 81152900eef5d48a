"""The demo's table: a row is a network or one of its blocks, unfused or fused."""

from __future__ import annotations

from ..result import Column

UNFUSED, FUSED = SIDES = ("unfused", "fused")
WHOLE = "whole network"
COLUMNS = [
    Column("network", "key"),
    Column("part", "key"),
    Column("side", "key"),
    Column("step", "measured", "ms", "lower"),
    Column("step / unfused", "measured", "", "lower"),
    Column("evaluation", "measured", "ms", "lower"),
    Column("evaluation / unfused", "measured", "", "lower"),
    Column("saved", "counted", "B", "lower"),
    Column("saved / unfused", "counted", "", "lower"),
    Column("fused tails", "counted"),
    Column("refused tails", "counted"),
    Column("output error", "measured", "", "lower", shown=False),
    Column("gradient error", "measured", "", "lower"),
    Column("evaluation error", "measured", "", "lower", shown=False),
    Column("loss", "measured", "", "lower"),
    Column("test accuracy", "measured", "%", "higher"),
]
RATIOS = ("step / unfused", "evaluation / unfused", "saved / unfused")
