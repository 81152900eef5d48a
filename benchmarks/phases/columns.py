"""The result's columns: a row is a tail computed in one way."""

from __future__ import annotations

from ..launches import BACKWARD, BACKWARD_PHASES, FORWARD, FORWARD_PHASES
from ..result import Column, Row, number

EAGER, MOMENTS, LIBRARY, DIRECT = "eager", "moments", "library", "direct"
CONVOLUTION = {FORWARD: "convolution forward", BACKWARD: "convolution backward"}

# Behind the name of a network's last tail, whose dy comes from an average pool: a copy precedes the launch.
NCHW = ", dy in NCHW"

COLUMNS = [
    Column("tail", "key"),
    Column("way", "key"),
    Column("kind", "key", shown=False),
    Column("blocks", "key", shown=False),
    Column("forward", "measured", "ms", better="lower"),
    *(Column(f"forward {phase}", "measured", "ms", better="lower") for phase in FORWARD_PHASES),
    Column("backward", "measured", "ms", better="lower"),
    *(Column(f"backward {phase}", "measured", "ms", better="lower") for phase in BACKWARD_PHASES),
    *(Column(name, "measured", "ms", better="lower", shown=False) for name in CONVOLUTION.values()),
    *(Column(f"{direction} moved", "measured", "GB/s", better="higher") for direction in (FORWARD, BACKWARD)),
    *(Column(f"{direction} of a copy", "measured", better="higher") for direction in (FORWARD, BACKWARD)),
    *(Column(f"{direction} bytes", "counted", "B", better="lower", shown=False) for direction in (FORWARD, BACKWARD)),
    Column("error", "measured", better="lower", shown=False),
]


def rates(row: Row, copy_bytes_per_s: float) -> Row:
    """What follows from a row's times and bytes, and from the rate of a copy."""
    found: Row = {}
    for direction in (FORWARD, BACKWARD):
        milliseconds, nbytes = number(row.get(direction)), number(row.get(f"{direction} bytes"))
        if milliseconds and nbytes is not None:
            found[f"{direction} moved"] = nbytes / milliseconds / 1e6
            found[f"{direction} of a copy"] = nbytes / milliseconds * 1e3 / copy_bytes_per_s
    return found


def whole(row: Row) -> float | None:
    """Milliseconds of both directions, a convolution that is left to the library included; None where one is open."""
    parts = [number(row.get(name)) for name in (FORWARD, BACKWARD)]
    if None in parts:
        return None
    convolution = [number(row.get(name)) or 0.0 for name in CONVOLUTION.values()]
    return sum(part for part in (*parts, *convolution) if part is not None)
