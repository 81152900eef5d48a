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


# Those that every tail is run in.
MODES = {
    mode.name: mode
    for mode in (
        Mode("training", training=True, backward=False),
        Mode("training+backward", training=True, backward=True),
        Mode("eval", training=False, backward=False),
        Mode("eval+backward", training=False, backward=True),
    )
}
