"""The result in a small table: each tail's training step in each way, and where its time goes."""

from __future__ import annotations

from ..launches import BACKWARD, BACKWARD_PHASES, FORWARD, FORWARD_PHASES
from ..result import Result, Row, number, text
from .columns import EAGER, LIBRARY, whole

_WAYS = ("moments", "materialise", "library")


def by_tail(result: Result) -> dict[str, dict[str, Row]]:
    """The rows of each tail, by their ways."""
    tails: dict[str, dict[str, Row]] = {}
    for row in result.rows:
        tails.setdefault(str(row["tail"]), {})[str(row["way"])] = row
    return tails


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    settings = result.settings
    return (
        f"Time of {len(by_tail(result))} residual tails, forward + backward, eager and in each way of the kernels, cut"
        " into phases that were launched alone. Measured on"
        f" {result.provenance.device} ({settings['dtype']}, batches of {settings['batch']}, {result.provenance.backend}"
        " backend)."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a tail: milliseconds of a training step in each way, and the share of a copy's rate that moments reach."""
    header = ["forward + backward, ms (measured)", "blocks", EAGER, "moments", "materialise", "library + convolution"]
    header += ["moments, of a copy's rate"]
    return header, [_line(tail, ways) for tail, ways in by_tail(result).items()]


def _line(tail: str, ways: dict[str, Row]) -> list[str]:
    # A tail without projections has but one way.
    own = {"moments": ways.get("direct", {}), **{name: row for name, row in ways.items() if name != EAGER}}
    first = next(iter(ways.values()))
    shares = [number(own["moments"].get(f"{direction} of a copy")) for direction in (FORWARD, BACKWARD)]
    cells = [_milliseconds(ways.get(EAGER)), *(_milliseconds(own.get(name)) for name in _WAYS)]
    return [tail, _count(first), *cells, " + ".join(f"{share:.0%}" for share in shares if share is not None)]


def _count(row: Row) -> str:
    """How many blocks the row's own network has of it."""
    network = str(row["tail"]).split()[0]
    counts = dict(part.rsplit(" ", 1) for part in str(row["blocks"]).split(", "))
    return counts.get(network, "")


def _milliseconds(row: Row | None) -> str:
    if not row:
        return ""
    directions = [number(row.get(name)) for name in (FORWARD, BACKWARD)]
    return text(whole(row)) if row["way"] == LIBRARY else " + ".join(text(part) for part in directions)


def phases(row: Row) -> list[tuple[str, float]]:
    """Milliseconds of each phase of a row, in their order; of eager operations, of each direction."""
    names = [f"{FORWARD} {phase}" for phase in FORWARD_PHASES] + [f"{BACKWARD} {phase}" for phase in BACKWARD_PHASES]
    found = [(name, number(row.get(name))) for name in names]
    if all(value is None for _, value in found):
        found = [(name, number(row.get(name))) for name in (FORWARD, BACKWARD)]
    return [(name, value) for name, value in found if value is not None]
