"""What the counted activations come to, in words and in a small table."""

from __future__ import annotations

from collections.abc import Iterator

from ..network_ways import EAGER, FUSED, RECOMPUTE
from ..result import Result, Row, number

WHOLE, REST = "(whole)", "(stem and head)"
# Of the many networks, those of the small table.
_FIRST = ("resnet18", "resnet50", "resnet152", "wide_resnet50_2", "resnet56-A", "resnet56-B", "timm:resnet50d")


def whole(result: Result) -> dict[str, dict[str, Row]]:
    """Rows of whole networks: by network, then by way."""
    rows: dict[str, dict[str, Row]] = {}
    for row in result.rows:
        if row["block"] == WHOLE:
            rows.setdefault(str(row["model"]), {})[str(row["way"])] = row
    return rows


def parts(result: Result, model: str) -> dict[str, dict[str, float]]:
    """MB an image of a network's blocks and of the rest: by way, then by block."""
    found: dict[str, dict[str, float]] = {}
    for row in result.rows:
        if row["model"] == model and row["block"] != WHOLE:
            found.setdefault(str(row["way"]), {})[str(row["block"])] = megabytes(row)
    return found


def models_with_parts(result: Result) -> list[str]:
    """Networks that were counted block by block."""
    return list(dict.fromkeys(str(row["model"]) for row in result.rows if row["block"] != WHOLE))


def megabytes(row: Row) -> float:
    """Saved an image."""
    return number(row["an image"]) or 0.0


def conditions(result: Result) -> str:
    """In a few words."""
    size = (
        f"{result.settings['size']}x{result.settings['size']}"
        if result.settings["size"]
        else "224x224 (CIFAR networks: 32x32)"
    )
    return f"batches of {result.settings['batch']} images of {size}, {result.settings['dtype']}"


def caption(result: Result) -> str:
    """For the picture: what is shown, and that it is counted."""
    text = (
        "What the forward pass of a training step keeps for backward, with fused tails and with PyTorch's operations,"
        f" of whole ResNets{' and block by block' if models_with_parts(result) else ''}."
    )
    return f"{text} Counted exactly for {conditions(result)}; nothing is measured."


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a network: MB an image in each way, and the ratios."""
    header = ["network", "eager, MB an image (counted)", "fused, MB an image (counted)", "fused / eager (counted)"]
    header += ["norms recomputed, MB an image (counted)", "recomputed / eager (counted)"]
    both = {model: rows for model, rows in whole(result).items() if EAGER in rows and FUSED in rows}
    chosen = [model for model in _FIRST if model in both] or list(both)[: len(_FIRST)]
    return header, [[model, *_line(both[model])] for model in chosen]


def _line(ways: dict[str, Row]) -> Iterator[str]:
    eager = megabytes(ways[EAGER])
    yield f"{eager:.1f}"
    for way in (FUSED, RECOMPUTE):
        own = megabytes(ways[way]) if way in ways else None
        yield from ("", "") if own is None else (f"{own:.1f}", f"{own / eager:.3f}")
