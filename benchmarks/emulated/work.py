"""Counts many tails, in several processes: the emulator has one thread."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from ..result import Row
from .rows import rows_of
from .tails import Case


def count_all(cases: Sequence[Case], dtype: torch.dtype, jobs: int) -> Iterator[tuple[Case, list[Row]]]:
    """Each case and its rows as they come, those with most work first; one job is this process itself."""
    in_order = sorted(cases, key=lambda case: -case.effort)
    if jobs == 1:
        yield from ((case, rows_of(case, dtype)) for case in in_order)
        return
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        found = {pool.submit(rows_of, case, dtype): case for case in in_order}
        try:
            yield from ((found[done], done.result()) for done in as_completed(found))
        finally:
            pool.shutdown(cancel_futures=True)
