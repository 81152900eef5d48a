"""What is computed as a tail, to tell that a network computed fused tails and how many."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fused_resnet import functional
from fused_resnet.operators import remembered


@contextmanager
def recorded_tails() -> Iterator[list[Any]]:
    """The list of (main, shortcut, activation) that are computed within, as calls that are remembered or new."""
    calls: list[Any] = []
    compute, run = functional.compute, remembered.run
    within = threading.local()

    def compute_and_record(*tail):
        if getattr(within, "compute", False):  # what a convolution has been taken out of
            return compute(*tail)
        calls.append(tail)
        within.compute = True
        try:
            return compute(*tail)
        finally:
            within.compute = False

    def run_and_record(*tail):
        y = True
        try:
            y = run(*tail)
        finally:  # checkpointing ends a second forward by an exception, once all is saved
            if y is not None and not getattr(within, "compute", False):
                calls.append(tail)
        return y

    functional.compute, remembered.run = compute_and_record, run_and_record
    try:
        yield calls
    finally:
        functional.compute, remembered.run = compute, run
