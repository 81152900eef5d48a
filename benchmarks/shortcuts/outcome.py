"""The study as a `Result`, and what is read from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean

from ..provenance import Provenance
from ..result import Column, Result, Row, Spread
from .contrasts import Contrast, contrasts
from .cost import WAYS, Cost
from .settings import Job, Settings
from .training import WINDOW, Run

_LAST = 3  # windows of losses that are averaged
COLUMNS = [
    Column("depth", "key"),
    Column("shortcuts", "key"),
    Column("test accuracy", "measured", "%", "higher"),
    Column("lowest", "measured", "%", "higher", shown=False),
    Column("highest", "measured", "%", "higher", shown=False),
    Column("loss", "measured", "", "lower"),
    Column("gradient", "measured"),
    Column("gradient, trained", "measured"),
    Column("parameters", "counted", "", "lower"),
    *(Column(f"step, {way}", "measured", "ms", "lower") for way in WAYS.values()),
    *(Column(f"saved, {way}", "counted", "MB", "lower") for way in WAYS.values()),
]


def result_of(
    provenance: Provenance,
    settings: Settings,
    task: str,
    runs: Mapping[Job, Run],
    costs: Mapping[tuple[str, int], Cost],
) -> Result:
    """Rows by depth and option; each training's numbers and the paired tests are in the details."""
    s = settings
    rows = [
        _row(option, depth, [runs[Job(option, depth, seed)] for seed in range(s.seeds)], costs[option, depth])
        for depth in s.depths
        for option in s.options
    ]
    details = {
        "runs": [{**job._asdict(), **asdict(runs[job])} for job in sorted(runs)],
        "contrasts": [asdict(contrast) for contrast in contrasts(runs, s)],
    }
    return Result("shortcuts", provenance, {**asdict(s), "task": task}, COLUMNS, rows, _notes(s, task, runs), details)


def _row(option: str, depth: int, runs: list[Run], cost: Cost) -> Row:
    accuracies = [run.accuracy * 100 for run in runs]
    return {
        "depth": depth,
        "shortcuts": option,
        "test accuracy": Spread.of(accuracies),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "loss": Spread.of([fmean(run.losses[-_LAST:]) for run in runs]),
        "gradient": Spread.of([run.gradients_before[0] / run.gradients_before[-1] for run in runs]),
        "gradient, trained": Spread.of([run.gradients_after[0] / run.gradients_after[-1] for run in runs]),
        "parameters": cost.parameters,
        **{f"step, {way}": seconds.scaled(1e3) for way, seconds in cost.step.items()},
        **{f"saved, {way}": nbytes / 1e6 for way, nbytes in cost.saved.items()},
    }


def _notes(s: Settings, task: str, runs: Mapping[Job, Run]) -> list[str]:
    drawn = "all" if s.train_images is None else f"{s.train_images} that each seed draws anew"
    minutes = sum(run.seconds for run in runs.values()) / 60
    return [
        f"CIFAR ResNets learn {task}; training images: {drawn}; {s.steps} steps of {s.batch_size} images.",
        "Of accuracies, losses and gradients: medians over the seeds, with quartiles.",
        f"Loss: mean training loss of the last {_LAST * WINDOW} steps.",
        "Gradient: norm of the loss's gradient at the output of the first block over that of the last,"
        " ahead of training and after it.",
        f"Steps: a training step of {s.batch_size} images by itself; saved: activations that its forward keeps.",
        f"All trainings together took {minutes:.0f} minutes of processor time.",
    ]


def runs_of(result: Result) -> dict[Job, Run]:
    """Each training of a result."""
    runs = [dict(run) for run in result.details["runs"]]
    return {Job(*(run.pop(name) for name in Job._fields)): Run(**run) for run in runs}


def contrasts_of(result: Result) -> list[Contrast]:
    """The paired tests of a result."""
    return [Contrast(**contrast) for contrast in result.details["contrasts"]]
