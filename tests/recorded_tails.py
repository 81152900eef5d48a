"""What is computed as a tail, to tell that a network computed fused tails and how many."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fused_resnet


@contextmanager
def recorded_tails() -> Iterator[list[Any]]:
    """The list of (main, shortcut, activation) that are computed within."""
    calls: list[Any] = []
    compute = fused_resnet.functional.compute

    def compute_and_record(*tail):
        calls.append(tail)
        return compute(*tail)

    fused_resnet.functional.compute = compute_and_record
    try:
        yield calls
    finally:
        fused_resnet.functional.compute = compute
