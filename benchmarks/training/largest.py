"""The largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable

# The batch is searched in steps of this size.
_RESOLUTION = 16


def search(fits: Callable[[int], bool], begin: int) -> int | None:
    """Doubles from `begin` until it does not fit, then bisects to a sixteenth; None where not even `begin` fits."""
    if not fits(begin):
        return None
    good, bad = begin, 2 * begin
    while fits(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // _RESOLUTION):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def extrapolated(peaks: dict[int, int], limit: float) -> int | None:
    """What would fit into `limit` bytes, where peaks grow by the same for each image: from those of two batches."""
    if len(peaks) < 2:
        return None
    (small, low), *_, (large, high) = sorted(peaks.items())
    an_image = (high - low) / (large - small)
    return int((limit - low) / an_image + small) if an_image > 0 else None
