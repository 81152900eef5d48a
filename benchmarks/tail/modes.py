"""The modes that every tail is run in."""

from __future__ import annotations

from ..modes import Mode

MODES = {
    mode.name: mode
    for mode in (
        Mode("training", training=True, backward=False),
        Mode("training+backward", training=True, backward=True),
        Mode("eval", training=False, backward=False),
        Mode("eval+backward", training=False, backward=True),
    )
}
