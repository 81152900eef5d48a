"""Times a case, both sides in turn: forward of all calls, then backward through all. A row is a tail or a block."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..result import Column, Row, number
from ..timing import Spread
from .cases import Case

NETWORK = "resnet50"
# How many blocks of the network are of a kind.
BLOCKS_OF_NETWORK = {"projection+projection": 4, "projection+identity": 12}
SIDES, DIRECTIONS = ("unfused", "fused"), ("forward", "backward")

COLUMNS = [
    Column("what", "key"),  # "tail", "own block" or "torchvision block"
    Column("kind", "key"),  # of both branches
    Column("precision", "key"),
    *(Column(f"{side} {way}", "measured", "us", better="lower") for side in SIDES for way in DIRECTIONS),
    Column("ratio", "measured", better="lower"),  # of the sums of both directions
]


def summed(rows: Sequence[Row]) -> Iterator[Row]:
    """A row for all of the network, of each kind of thing in each precision."""
    for what, precision in dict.fromkeys((row["what"], row["precision"]) for row in rows):
        weighted = [
            (BLOCKS_OF_NETWORK[str(row["kind"])], row)
            for row in rows
            if row["what"] == what and row["precision"] == precision and row["kind"] in BLOCKS_OF_NETWORK
        ]
        sums = {
            f"{side} {way}": sum(count * (number(row[f"{side} {way}"]) or 0.0) for count, row in weighted)
            for side in SIDES
            for way in DIRECTIONS
        }
        unfused, fused = (sum(sums[f"{side} {way}"] for way in DIRECTIONS) for side in SIDES)
        yield {"what": what, "kind": NETWORK, "precision": precision, **sums, "ratio": fused / unfused}


_WARM_UP = 3


def row_of(case: Case, device: torch.device, rounds: int) -> Row:
    """Microseconds of a call in so many (at least 2) rounds, and the ratio of the sides in each."""
    times: dict[str, list[float]] = {f"{side} {way}": [] for side in SIDES for way in DIRECTIONS}
    sides = dict(zip(SIDES, (case.calls.unfused, case.calls.fused), strict=True))
    gc.collect()
    gc.disable()  # as `timeit` does
    try:
        for turn in range(-_WARM_UP, rounds):
            for side in SIDES if turn % 2 == 0 else reversed(SIDES):
                taken = _seconds(sides[side], case, device)
                for way, seconds in zip(DIRECTIONS, taken, strict=True):
                    if turn >= 0:
                        times[f"{side} {way}"].append(seconds / len(sides[side]) * 1e6)
    finally:
        gc.enable()
    unfused, fused = (
        [sum(pair) for pair in zip(*(times[f"{side} {way}"] for way in DIRECTIONS), strict=True)] for side in SIDES
    )
    return {
        "what": case.what,
        "kind": case.kind,
        "precision": "float32" if case.autocast is None else "autocast",
        **{name: Spread.of(values) for name, values in times.items()},
        "ratio": Spread.of_ratios(fused, unfused),
    }


def _seconds(calls: Sequence[Callable[[], Tensor]], case: Case, device: torch.device) -> tuple[float, float]:
    """Until everything was queued, forward and backward."""
    for leaf in case.leaves:
        leaf.grad = None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    with torch.autocast(device.type, case.autocast or torch.bfloat16, enabled=case.autocast is not None):
        outputs = [call() for call in calls]
    middle = time.perf_counter()
    incoming = [torch.empty_like(output) for output in outputs]
    again = time.perf_counter()
    torch.autograd.backward(outputs, incoming)
    return middle - begun, time.perf_counter() - again
