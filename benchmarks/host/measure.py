"""Times a case: both sides in turn, forward of all calls, then backward through all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..result import Row
from ..timing import Spread
from .cases import Case
from .columns import DIRECTIONS, SIDES

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
        "ratio": Spread.of([b / a for a, b in zip(unfused, fused, strict=True)]),
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
