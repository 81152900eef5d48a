"""What `fuse` is asked for beyond tails."""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """Choices that a fused block keeps.

    Attributes:
        norms: batch norms that no addition takes are fused by themselves.
        recompute: backward computes their outputs again, and nobody keeps them.
    """

    norms: bool = False
    recompute: bool = False
