"""What `fused_resnet.fuse` did, and what it left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class FusionReport:
    """The outcome of `fused_resnet.fuse`; ``str()`` gives a table.

    Attributes:
        fused: a block's qualified name ("" for the model itself) to what was fused there.
        fused_norms: qualified names of the batch norms that are part of what was fused.
        refused: the qualified name of a block or of a part of one to the reason why it stays as it is.
        left: the qualified name of a batch norm, or of a module that adds, to the reason why it is no part of a tail.
            Every batch norm of the model is in one of the three. Every module that adds is fused, refused or left; of
            one that adds several times, what is fused is told apart from the rest.
    """

    fused: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    fused_norms: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [("fused", name, what) for name, what in self.fused.items()]
        rows += [("refused", name, why) for name, why in self.refused.items()]
        named = [(outcome, name or "(the model itself)", text) for outcome, name, text in rows]
        widths = [max((len(row[i]) for row in named), default=0) for i in range(2)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in named]
        return "\n".join([*(lines or ["no residual tails found"]), *self._left()])

    def _left(self) -> Iterator[str]:
        """A line for each reason."""
        by_reason: dict[str, list[str]] = {}
        for name, why in self.left.items():
            by_reason.setdefault(why, []).append(name or "(the model itself)")
        for why, (name, *others) in by_reason.items():
            yield f"left: {name}{f' and {len(others)} more' if others else ''}: {why}"
