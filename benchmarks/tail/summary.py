"""The result in a few lines."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ..result import Result, Row, number
from ..table import table
from ..tail_shapes import DistinctTail
from .modes import MODES
from .rows import name_of

# Of whose times the fused tail's are a share of, in the small table.
_RIVALS = ("eager", "compile", "compile-max-autotune", "cudnn-fused")
_ByWay = dict[str, Row]


def tails_table(tails: Sequence[DistinctTail]) -> str:
    """What the tails are, and how many blocks of each network have them."""
    rows = []
    for tail in tails:
        shape = tail.shape
        blocks = ", ".join(f"{network.replace('resnet', '')}: {count}" for network, count in tail.blocks.items())
        rows.append((name_of(tail), shape.kind, f"{shape.channels} x {shape.size} x {shape.size}", blocks))
    return table(("tail", "main+shortcut", "output", "blocks of each ResNet"), rows)


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    tails = len({row["tail"] for row in result.rows})
    settings = result.settings
    return (
        f"Roofline of {tails} residual tails of ResNets, each computed fused and in PyTorch's other ways: achieved"
        " operations a second against the operations a byte that the tail needs. Measured on"
        f" {result.provenance.device} ({settings['dtype']}, batches of {settings['batch']}, fused by the"
        f" {result.provenance.backend} backend)."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """Of each mode, the median over all tails, and the quickest and the slowest tail; fused against the others."""
    rivals = [way for way in _RIVALS if any(row["way"] == way for row in result.rows)]
    header = ["mode", "tails", *(f"fused time / {way} (measured)" for way in rivals)]
    header += ["fused, of the roofline (measured)", "eager (measured)", "fused bytes / eager (counted)"]
    rows = []
    for mode in MODES:
        tails = _tails(result, mode)
        if tails:
            cells = [_ratios(tails, "time", way) for way in rivals]
            cells += [_shares(tails, way) for way in ("fused", "eager")]
            rows.append([mode, str(len(tails)), *cells, _ratios(tails, "bytes", "eager")])
    return header, rows


def _tails(result: Result, mode: str) -> list[_ByWay]:
    """The rows of each tail, by their ways."""
    tails: dict[str, _ByWay] = {}
    for row in result.rows:
        if row["mode"] == mode:
            tails.setdefault(str(row["tail"]), {})[str(row["way"])] = row
    return list(tails.values())


def _ratios(tails: list[_ByWay], column: str, rival: str) -> str:
    ratios = []
    for ways in tails:
        ours, theirs = (number(ways.get(way, {}).get(column)) for way in ("fused", rival))
        if ours is not None and theirs:
            ratios.append(ours / theirs)
    some = f", of {len(ratios)}" if 0 < len(ratios) < len(tails) else ""
    return _spread(ratios, "{:.2f}".format) + some


def _shares(tails: list[_ByWay], way: str) -> str:
    shares = (number(ways.get(way, {}).get("roofline")) for ways in tails)
    return _spread([share for share in shares if share is not None], "{:.0%}".format)


def _spread(values: list[float], shown: Callable[[float], str]) -> str:
    if not values:
        return ""
    median, lowest, highest = map(shown, (statistics.median(values), min(values), max(values)))
    return median if len(values) == 1 else f"{median} ({lowest} to {highest})"
