"""Runs trainings side by side and keeps each as a file, so that a study that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..progress import progress
from ..result import write_json
from .settings import Job, Settings
from .task import Task, load
from .training import Run, train


@dataclass(frozen=True)
class Study:
    """All that a run's numbers depend on, apart from the code."""

    settings: Settings
    data: Path | None
    device: str
    dtype: str

    def jobs(self) -> list[Job]:
        """All trainings, long ones first, so that no core is left alone with one at the end."""
        s = self.settings
        depths = sorted(s.depths, reverse=True)
        return [Job(option, depth, seed) for depth in depths for seed in range(s.seeds) for option in s.options]

    def folder(self, parent: Path) -> Path:
        """Where its runs are kept: apart from those of a study that differs in more than which runs it wants."""
        data = None if self.data is None else str(self.data.resolve())
        alike = replace(self.settings, options=(), depths=(), seeds=0)
        described = json.dumps([asdict(alike), data, self.device, self.dtype, torch.__version__])
        return parent / hashlib.sha256(described.encode()).hexdigest()[:12]


def run_all(study: Study, parent: Path, workers: int) -> dict[Job, Run]:
    """Every run, those of an earlier call read from below `parent`."""
    folder = study.folder(parent)
    jobs = study.jobs()
    runs = {job: kept for job in jobs if (kept := _kept(folder / job.file)) is not None}
    missing = [job for job in jobs if job not in runs]
    with progress("trainings, weighted by depth", sum(job.depth for job in jobs)) as advance:
        advance(sum(job.depth for job in runs))
        for job, run in _run_side_by_side(study, missing, workers):
            write_json(run, folder / job.file)
            runs[job] = run
            advance(job.depth)
    return runs


def _kept(path: Path) -> Run | None:
    return Run(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _run_side_by_side(study: Study, jobs: list[Job], workers: int) -> Iterable[tuple[Job, Run]]:
    # Spawned: a GPU cannot be used in a process that was forked from one that uses it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(study, workers)) as pool:
        futures = {pool.submit(_run, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    """What a worker's process keeps between two trainings."""

    study: Study
    task: Task


def _begin(study: Study, workers: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C is the parent's: it ends the others, without a traceback of each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _Worker.study, _Worker.task = study, load(study.data, study.settings).to(torch.device(study.device))


def _end_with_parent() -> None:
    """A worker would otherwise wait for ever for the next job of a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(job: Job) -> Run:
    study = _Worker.study
    return train(job.option, job.depth, job.seed, _Worker.task, study.settings, getattr(torch, study.dtype))
