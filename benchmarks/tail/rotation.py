"""Inputs that no call finds in the cache.

Every call takes the next of several copies, which together do not fit the last-level cache. On a GPU the clock empties
the L2 cache besides (`clocks.GpuClock`), so that no call has to write back what another has left there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

# Where a system does not tell.
_USUAL_CACHE_BYTES = 32 * 2**20
_MOST_BYTES = 2**30


@dataclass(frozen=True)
class Case:
    """What one call is given: both inputs and, where backward follows, the output's gradient."""

    x: Tensor
    before: Tensor
    dy: Tensor | None

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        return self.x, self.before

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.x, self.before, self.dy) if t is not None)

    def copy(self, memory_format: torch.memory_format) -> Case:
        """The same values in memory of their own, which require gradients as these do."""

        def copied(t: Tensor) -> Tensor:
            return t.detach().clone(memory_format=memory_format).requires_grad_(t.requires_grad)

        return Case(copied(self.x), copied(self.before), None if self.dy is None else copied(self.dy))


class Rotation:
    """Copies of one case, taken in turn."""

    def __init__(self, case: Case, memory_format: torch.memory_format, copies: int) -> None:
        self.copies: Sequence[Case] = [case.copy(memory_format) for _ in range(copies)]
        self._next = cycle(self.copies)

    def __call__(self) -> Case:
        """The next copy: the one that was taken longest ago."""
        return next(self._next)


def copies_for(case_bytes: int, cache_bytes: int, most_bytes: int = _MOST_BYTES) -> int:
    """How many copies are twice the cache, and two at least; no more than fit `most_bytes`."""
    wanted = -(-2 * cache_bytes // case_bytes)
    return max(2, min(wanted, most_bytes // case_bytes))


def cache_bytes(device: torch.device) -> int:
    """The size of the last-level cache."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    found = [_size(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(found, default=_USUAL_CACHE_BYTES)


def _size(path: Path) -> int:
    """Such as 32768K."""
    text = path.read_text().strip()
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)
