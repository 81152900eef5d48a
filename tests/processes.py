"""Runs a function in several processes that form a group of ``torch.distributed``.

The function must be a top-level one of a test module, and what it returns must be picklable. Importing PyTorch takes
each process seconds, so that several checks belong into one function.
"""

import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 60


class ProcessesFailedError(AssertionError):
    """What went wrong in which process."""


def run_in_processes(function: Callable[..., Any], count: int, *arguments: Any, backend: str = "gloo") -> list[Any]:
    """Returns ``function(rank, *arguments)`` of each of `count` processes, by rank.

    Raises:
        ProcessesFailedError: with the traceback of each process that raised, or died, or was not done in time. All
            others are ended then: they may wait for it forever.
    """
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder, "rendezvous").as_uri()
        ends, processes = [], []
        for rank in range(count):
            receive, send = context.Pipe(duplex=False)
            shared = (rank, count, rendezvous, backend, sys.path, send, function, arguments)
            processes.append(context.Process(target=_child, args=shared, daemon=True))
            processes[-1].start()
            send.close()
            ends.append(receive)
        try:
            return _collect(ends, processes)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(ends: list[Any], processes: list[Any]) -> list[Any]:
    results: dict[int, Any] = {}
    deadline = time.monotonic() + SECONDS
    while len(results) < len(ends):
        waiting = [end for rank, end in enumerate(ends) if rank not in results]
        ready = wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ProcessesFailedError(
                f"after {SECONDS} s, still running: ranks {[ends.index(end) for end in waiting]}"
            )
        for end in ready:
            rank = ends.index(end)
            try:
                failure, results[rank] = end.recv()
            except EOFError:
                processes[rank].join()
                failure = f"ended with exit code {processes[rank].exitcode}"
            if failure is not None:
                raise ProcessesFailedError(f"rank {rank} of {len(ends)}:\n{failure}")
    return [results[rank] for rank in range(len(ends))]


def _child(
    rank: int,
    count: int,
    rendezvous: str,
    backend: str,
    path: list[str],
    send: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    sys.path[:] = path
    # As in conftest.py.
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    try:
        dist.init_process_group(
            backend, init_method=rendezvous, rank=rank, world_size=count, timeout=timedelta(seconds=SECONDS)
        )
        send.send((None, function(rank, *arguments)))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        send.send((traceback.format_exc(), None))
