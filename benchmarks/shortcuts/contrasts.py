"""The study's questions: does one option differ from another over the same seeds?

An exact paired test, corrected for the number of questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from statistics import stdev

from ..result import table
from .settings import Job, Settings
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
        p: of the exact paired test, `sign_flip_p`.
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


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of the mean of paired differences, by the exact randomisation test (Fisher 1935).

    Were there no difference between the two, each pair's sign would be a coin's throw. The p is the part of all 2^n
    sign patterns whose sum is as far from zero as the one observed, or further; at least 2^(1 - n).
    """
    observed = abs(sum(differences))
    # Equal up to rounding counts as equal.
    limit = observed - 1e-9 * max(map(abs, differences))
    patterns = product((1, -1), repeat=len(differences))
    sums = [abs(sum(sign * value for sign, value in zip(signs, differences, strict=True))) for signs in patterns]
    return sum(value >= limit for value in sums) / len(sums)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that the chance of one or more false alarms among all of them is bounded (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
