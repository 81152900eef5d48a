"""The comparison's results as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from ..table import table
from .experiment import Run

_COLUMNS: dict[str, Callable[[Run], float]] = {
    "gradient, first / last": lambda run: run.gradients_before[0] / run.gradients_before[-1],
    "after training": lambda run: run.gradients_after[0] / run.gradients_after[-1],
    "loss, last 10 steps": lambda run: sum(run.losses[-10:]) / len(run.losses[-10:]),
    "test accuracy": lambda run: run.test_accuracy,
}


def summary(runs: Mapping[str, Sequence[Run]]) -> str:
    """Of each option, medians over its runs and, in parentheses, lowest and highest."""
    rows = [
        [option, *(_cell([value(run) for run in own]) for value in _COLUMNS.values())] for option, own in runs.items()
    ]
    return table(["shortcuts", *_COLUMNS], rows)


def _cell(values: Sequence[float]) -> str:
    return f"{_number(median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
