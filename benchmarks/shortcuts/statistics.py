"""Whether two options differ: an exact paired test over the seeds, corrected for the number of questions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product


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
