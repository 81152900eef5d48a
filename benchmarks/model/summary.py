"""The result in a small table: each tail as it was measured, and as the model has it."""

from __future__ import annotations

from ..launches import BACKWARD, FORWARD
from ..phases.columns import DIRECT, MOMENTS
from ..result import Result, Row, number, text

STAGES = ("measured", "then, modelled", "now, modelled")


def by_tail(result: Result) -> dict[str, list[Row]]:
    """The rows of each tail, of moments or of the only way."""
    tails: dict[str, list[Row]] = {}
    for row in result.rows:
        if row["way"] in (MOMENTS, DIRECT):
            tails.setdefault(str(row["tail"]), []).append(row)
    return tails


def milliseconds(rows: list[Row], stage: str, direction: str) -> float:
    """Of a direction, the phases added up."""
    return sum(number(row[stage]) or 0.0 for row in rows if str(row["phase"]).startswith(direction))


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    return (
        f"Left: {len(by_tail(result))} tails, forward + backward, on {result.settings['gpu']}: PyTorch's operations and"
        " the kernels of commit 82e7ce2 as they were measured, the kernels as they are by the model. Right: modelled"
        f" against measured times of {len(result.rows)} phases of the kernels of commit 82e7ce2."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a tail: forward + backward, as measured, by the model then, and by the model now."""
    header = ["moments, forward + backward, ms", "measured then", "modelled then", "modelled now"]
    lines = []
    for tail, rows in by_tail(result).items():
        cells = (
            " + ".join(text(milliseconds(rows, stage, direction)) for direction in (FORWARD, BACKWARD))
            for stage in STAGES
        )
        lines.append([tail, *cells])
    return header, lines
