"""The result in a small table and in words."""

from __future__ import annotations

from ..result import Result, Row, number, text
from .columns import DIRECTIONS, NETWORK, SIDES


def of_network(result: Result) -> list[Row]:
    """The rows that stand for all of ResNet-50."""
    return [row for row in result.rows if row["kind"] == NETWORK]


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    launches = "launches included" if result.settings["device"] == "cuda" else "the kernels' launches left out"
    return (
        "Host time of residual tails and blocks, forward and backward, unfused and fused, in microseconds a call;"
        f" measured on {result.provenance.device}, {launches}."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line for all of ResNet-50's tails, and of its blocks, in each precision."""
    header = ["ResNet-50, microseconds (measured)", "unfused", "fused", "ratio"]
    return header, [_line(row) for row in of_network(result)]


def _line(row: Row) -> list[str]:
    sides = [" + ".join(text(number(row[f"{side} {way}"])) for way in DIRECTIONS) for side in SIDES]
    return [f"{row['what']}s, {row['precision']}", *sides, text(number(row["ratio"]))]
