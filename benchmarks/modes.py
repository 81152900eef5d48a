"""In which ways a tail is run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """One way.

    Attributes:
        training: norms take the batch's statistics in place of the running ones.
        backward: backward follows, to both inputs and all parameters.
    """

    name: str
    training: bool
    backward: bool

    @property
    def grad_enabled(self) -> bool:
        """In training, forward keeps what backward needs also where that does not follow."""
        return self.training or self.backward
