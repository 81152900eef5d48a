"""The part ``compiled``: torch.compile as a peer, of training and of tails, each for as long as it has."""

from __future__ import annotations

from ..network_ways import compiles
from ..result import text
from ..training.side import COMPILER, MEMORY, MISSING
from .benchmark import run_benchmark
from .record import Record

# A whole network takes longer to compile than a tail.
_TRAININGS_SHARE = 0.6
_ON_GPU, _REHEARSED = "--models resnet50 --batches 128 --steps 20", "--batches 4 --steps 2"
# What is beyond this project is no problem of the part.
_NOTED = (COMPILER, MEMORY, MISSING)
TRAINING, TAILS = "compiled-training.json", "compiled-tails.json"


def run_part(record: Record, rehearse: bool) -> None:
    _train(record, record.left_s * _TRAININGS_SHARE, rehearse)
    _measure_tails(record, record.left_s, rehearse)


def _train(record: Record, limit_s: float, rehearse: bool) -> None:
    sizes = (_REHEARSED if rehearse else _ON_GPU).split()
    options = [*sizes, "--ways", "eager,compile", "--no-largest", "--seconds", str(max(1, int(limit_s * 0.9)))]
    result = run_benchmark(record, "training", options, to=TRAINING, limit_s=limit_s, rehearse=rehearse)
    if result is None:
        return
    for row in result.rows:
        record.add(network=row["model"], batch=row["batch"], way=row["way"], step=text(row["step"]))
    for failure in result.details["failures"]:
        said = f"{failure['where']}: {failure['what']}"
        ours = failure["kind"] not in _NOTED and not compiles(failure["way"])
        record.problem(said) if ours else record.note(said)
    steps = ", ".join(f"{row['way']} {text(row['step'])} ms" for row in result.rows)
    record.headline = f"a training step: {steps}"


def _measure_tails(record: Record, limit_s: float, rehearse: bool) -> None:
    networks = ["--networks", "resnet18" if rehearse else "resnet50", "--modes", "training+backward"]
    options = [*networks, "--peers", "eager,compile"]
    result = run_benchmark(record, "tail", options, to=TAILS, limit_s=limit_s, rehearse=rehearse)
    if result is None:
        return
    for row in result.rows:
        record.add(tail=row["tail"], way=row["way"], time=text(row["time"]))
    for problem in result.details["problems"]:
        record.problem(problem)
    tails = sum(row["way"] == "compile" for row in result.rows)
    record.headline = "; ".join(filter(None, [record.headline, f"{tails} tails by torch.compile"]))
