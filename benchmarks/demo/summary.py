"""The demo's table: a row is a network or one of its blocks, unfused or fused."""

from __future__ import annotations

from ..result import Column, Result, Row, number, text

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
    Column("output error", "measured", "", "lower", shown=False),
    Column("gradient error", "measured", "", "lower"),
    Column("evaluation error", "measured", "", "lower", shown=False),
    Column("loss", "measured", "", "lower"),
    Column("test accuracy", "measured", "%", "higher"),
]
RATIOS = ("step / unfused", "evaluation / unfused", "saved / unfused")


def rows(result: Result, side: str, *, whole: bool) -> list[Row]:
    """Of whole networks that were timed, or of single blocks."""
    timed = [row for row in result.rows if row["side"] == side and row.get("step") is not None]
    return [row for row in timed if (row["part"] == WHOLE) == whole]


def caption(result: Result) -> str:
    """What the picture shows."""
    return (
        f"Saved activations (counted) and time (measured) of each block of {result.settings['blocks of']}, unfused and"
        f" fused; how {result.settings['network']} learns both ways; ratios of the whole networks;"
        f" on {result.provenance.device}."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """The ratios of each network."""
    header = ["network, fused / unfused", "training step (measured)", "evaluation (measured)", "saved (counted)"]
    lines = [
        [str(row["network"]), *(text(number(row[name])) for name in RATIOS)] for row in rows(result, FUSED, whole=True)
    ]
    return header, lines
