"""Times a case, both sides in turn: forward of all calls, then backward through all. A row is a tail or a block."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence

import torch

from ..result import Column, Row, Spread, amount
from .cases import SIDES, Case

NETWORK = "resnet50"
# How many blocks of the network are of a kind.
BLOCKS_OF_NETWORK = {"projection+projection": 4, "projection+identity": 12}
DIRECTIONS = ("forward", "backward")
_TIMES = [f"{side} {way}" for side in SIDES for way in DIRECTIONS]
_WARM_UP = 3

COLUMNS = [
    Column("what", "key"),  # "tail", "own block" or "torchvision block"
    Column("kind", "key"),  # of both branches
    Column("precision", "key"),
    *(Column(name, "measured", "us", better="lower") for name in _TIMES),
    Column("ratio", "measured", better="lower"),  # of the sums of both directions
]


def summed(rows: Sequence[Row]) -> Iterator[Row]:
    """A row for all of the network, of each kind of thing in each precision."""
    for what, precision in dict.fromkeys((row["what"], row["precision"]) for row in rows):
        own = [row for row in rows if (row["what"], row["precision"]) == (what, precision)]
        counted = [(BLOCKS_OF_NETWORK.get(str(row["kind"]), 0), row) for row in own]
        sums = {name: sum(count * amount(row, name) for count, row in counted) for name in _TIMES}
        unfused, fused = (sum(sums[f"{side} {way}"] for way in DIRECTIONS) for side in SIDES)
        yield {"what": what, "kind": NETWORK, "precision": precision, **sums, "ratio": fused / unfused}


def row_of(case: Case, device: torch.device, rounds: int) -> Row:
    """Microseconds of a call in so many (at least 2) rounds, and the ratio of the sides in each."""
    times: dict[str, list[float]] = {name: [] for name in _TIMES}
    gc.collect()
    gc.disable()  # as `timeit` does
    try:
        for turn in range(-min(_WARM_UP, rounds // 2), rounds):
            for side in SIDES if turn % 2 == 0 else reversed(SIDES):
                for way, seconds in zip(DIRECTIONS, _seconds(case, side, device), strict=True):
                    if turn >= 0:
                        times[f"{side} {way}"].append(seconds / len(case.calls[side]) * 1e6)
    finally:
        gc.enable()
    unfused, fused = ([sum(p) for p in zip(*(times[f"{s} {w}"] for w in DIRECTIONS), strict=True)] for s in SIDES)
    return {
        "what": case.what,
        "kind": case.kind,
        "precision": "float32" if case.autocast is None else "autocast",
        **{name: Spread.of(values) for name, values in times.items()},
        "ratio": Spread.of_ratios(fused, unfused),
    }


def _seconds(case: Case, side: str, device: torch.device) -> tuple[float, float]:
    """Until everything was queued, forward and backward."""
    for leaf in case.leaves:
        leaf.grad = None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    with torch.autocast(device.type, case.autocast or torch.bfloat16, enabled=case.autocast is not None):
        outputs = [call() for call in case.calls[side]]
    middle = time.perf_counter()
    incoming = [torch.empty_like(output) for output in outputs]
    again = time.perf_counter()
    torch.autograd.backward(outputs, incoming)
    return middle - begun, time.perf_counter() - again
