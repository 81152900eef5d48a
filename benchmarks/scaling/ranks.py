"""Weak scaling: ``torchrun`` starts processes that train on a batch each; their times are merged."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..process import run
from ..provenance import available_cores
from ..result import Row, Spread

SYNCHRONISED = "fused, synchronised"
SIDES = ("fused", "eager", SYNCHRONISED)
LIMIT_S = 240.0
SWEEP = "ranks"


@dataclass(frozen=True)
class Training:
    """A network of `fused_resnet.models`, a batch a process, and how many steps are timed."""

    model: str
    batch: int
    image_size: int
    classes: int
    rounds: int
    warm_up: int


CPU = Training("resnet20", batch=16, image_size=32, classes=10, rounds=15, warm_up=3)
GPU = Training("resnet50", batch=64, image_size=224, classes=1000, rounds=30, warm_up=5)
QUICK = Training("resnet20", batch=2, image_size=16, classes=10, rounds=2, warm_up=1)


def training_of(device: torch.device, quick: bool) -> Training:
    return QUICK if quick else GPU if device.type == "cuda" else CPU


class TorchrunError(Exception):
    """How torchrun ended, and the last that it said."""


def counts(device: torch.device) -> list[int]:
    """1, 2, 4 and so on, up to the GPUs or cores that there are, and as many as there are."""
    most = torch.cuda.device_count() if device.type == "cuda" else available_cores()
    return sorted({*(2**i for i in range(most.bit_length())), most})


def launch(count: int, device: torch.device, dtype: str, quick: bool) -> list[dict[str, list[float]]]:
    """Seconds of each round's steps, by side, of each of `count` processes.

    Raises:
        TorchrunError: a process failed, or was not done in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += ["-m", "benchmarks.scaling.rank", "--folder", folder, "--device", device.type, "--dtype", dtype]
        said: list[str] = []
        command += ["--quick"] if quick else []
        ended = run(command, limit_s=LIMIT_S, on_line=said.append, environment={"OMP_NUM_THREADS": "1"})
        if ended.problem is not None:
            raise TorchrunError(f"{ended.problem}: {_last_error(said)}")
        files = [Path(folder, f"rank-{rank}.json") for rank in range(count)]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _last_error(said: Sequence[str]) -> str:
    """What a process raised, or else the last line."""
    errors = [line.partition("]: ")[2] or line for line in said if "Error: " in line]
    return (errors or [line for line in said if line.strip()] or ["it said nothing"])[0].strip()[:300]


def merged(seconds: Sequence[dict[str, list[float]]], training: Training, alone: Row | None) -> Row:
    """The row of so many processes; `alone` is that of one, None for itself.

    A round takes as long as its slowest process. "fused / eager" is of times, as in the sweeps.
    """
    row: Row = {"sweep": SWEEP, "value": len(seconds)}
    medians = {}
    for side in seconds[0]:
        rounds = [max(of_round) for of_round in zip(*(own[side] for own in seconds), strict=True)]
        rate = Spread.of([training.batch / taken for taken in rounds])
        first = rate if alone is None else alone[f"{side} rate"]
        assert isinstance(first, Spread)
        row[f"{side} rate"] = rate
        row[f"{side} efficiency"] = rate.median / first.median
        medians[side] = rate.median
    row["fused / eager"] = medians["eager"] / medians["fused"]
    return row
