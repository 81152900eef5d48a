"""The study's questions, each a comparison of two options over the same seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import stdev

from ..table import table
from .pool import Job
from .settings import Settings
from .statistics import holm, sign_flip_p
from .training import Run

# Chosen ahead of the first run. Of each: what the first option has that the second has not.
QUESTIONS = {
    ("A", "none"): "a shortcut in every block, without parameters",
    ("identity only", "none"): "identities, where the shape does not change",
    ("A", "identity only"): "zero-padded identities where it does",
    ("B", "identity only"): "projections where it does",
    ("B", "A"): "projections in place of zero-padded identities",
    ("B", "frozen B"): "the training of W_s",
    ("frozen B", "A"): "mixed and filled channels, without training",
    ("C", "B"): "projections in all blocks",
    ("D", "B"): "an average pool ahead of the projection",
    ("v2", "B"): "pre-activation",
}


@dataclass(frozen=True)
class Contrast:
    """A question at one depth.

    Attributes:
        differences: test accuracy of the first option minus that of the second, of each seed.
        p: of the exact paired test, see `statistics`.
        adjusted: that p, corrected for the number of questions at this depth.
    """

    first: str
    second: str
    depth: int
    differences: list[float]
    p: float
    adjusted: float

    @property
    def mean(self) -> float:
        return sum(self.differences) / len(self.differences)

    @property
    def error(self) -> float:
        """The mean's standard error: the deviation of the differences over the root of their number."""
        return stdev(self.differences) / sqrt(len(self.differences))


def contrasts(runs: Mapping[Job, Run], settings: Settings) -> list[Contrast]:
    """Every question whose two options were run, depth by depth."""
    asked = [pair for pair in QUESTIONS if set(pair) <= set(settings.options)]
    found = []
    for depth in settings.depths:
        each = [_differences(runs, *pair, depth, settings.seeds) for pair in asked]
        p_values = [sign_flip_p(differences) for differences in each]
        adjusted = holm(p_values)
        answers = zip(asked, each, p_values, adjusted, strict=True)
        found += [Contrast(*pair, depth, differences, p, holms) for pair, differences, p, holms in answers]
    return found


def _differences(runs: Mapping[Job, Run], first: str, second: str, depth: int, seeds: int) -> list[float]:
    accuracies = [[runs[Job(option, depth, seed)].accuracy for seed in range(seeds)] for option in (first, second)]
    return [a - b for a, b in zip(*accuracies, strict=True)]


def contrast_table(found: list[Contrast]) -> str:
    """A line a question and depth: percentage points with their standard error, and p."""
    header = ["", "depth", "difference [% points]", "seeds for it", "p", "p, corrected"]
    rows = []
    for c in found:
        wins = sum(difference > 0 for difference in c.differences)
        rows.append(
            [
                f"{c.first} - {c.second}: {QUESTIONS[c.first, c.second]}",
                str(c.depth),
                f"{c.mean * 100:+.2f} +- {c.error * 100:.2f}",
                f"{wins} of {len(c.differences)}",
                f"{c.p:.3f}",
                f"{c.adjusted:.3f}",
            ]
        )
    return table(header, rows)
