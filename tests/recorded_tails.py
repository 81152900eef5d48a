"""What is computed as a tail, to tell that a network computed fused tails and how many."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fused_resnet import functional, remembered


@contextmanager
def recorded_tails() -> Iterator[list[Any]]:
    """The list of (main, shortcut, activation) that are computed within, as calls that are remembered or new."""
    calls: list[Any] = []
    compute, run = functional.compute, remembered.run
    depth = 0

    def compute_and_record(*tail):
        nonlocal depth
        if depth == 0:
            calls.append(tail)
        depth += 1
        try:
            return compute(*tail)
        finally:
            depth -= 1

    def run_and_record(*tail):
        y = run(*tail)
        if depth == 0 and y is not None:
            calls.append(tail)
        return y

    functional.compute, remembered.run = compute_and_record, run_and_record
    try:
        yield calls
    finally:
        functional.compute, remembered.run = compute, run
