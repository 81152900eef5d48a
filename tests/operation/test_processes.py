"""The harness for tests in several processes: it shows what went wrong in any of them, and does not hang."""

import os
import time

import processes
import pytest
import torch
import torch.distributed as dist
from processes import ProcessesFailedError, run_in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch is built without gloo"
)


def sum_of_ranks(rank, offset):
    total = torch.tensor([rank + offset])
    dist.all_reduce(total)
    return rank, total.item()


def fail_in_one(rank):
    if rank == 1:
        raise ValueError("the second process's own")
    dist.barrier()


def die(rank):
    os._exit(3)


def sleep(rank):
    time.sleep(1000)


def test_results_come_back_by_rank():
    assert run_in_processes(sum_of_ranks, 2, 10) == [(0, 21), (1, 21)]


def test_an_exception_is_shown_while_others_wait():
    with pytest.raises(ProcessesFailedError, match=r"rank 1 of 2:[\s\S]*ValueError: the second process's own"):
        run_in_processes(fail_in_one, 2)


def test_a_process_that_dies_is_shown():
    with pytest.raises(ProcessesFailedError, match="rank 0 of 1:\nended with exit code 3"):
        run_in_processes(die, 1)


def test_a_process_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(processes, "SECONDS", 0.5)
    with pytest.raises(ProcessesFailedError, match=r"after 0\.5 s, still running: ranks \[0\]"):
        run_in_processes(sleep, 1)
