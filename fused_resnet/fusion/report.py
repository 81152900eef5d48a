"""What `fused_resnet.fuse` did, and what it left alone."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FusionReport:
    """The outcome of `fused_resnet.fuse`; ``str()`` gives a table.

    Attributes:
        fused: a block's qualified name ("" for the model itself) to what was fused there.
        refused: the qualified name of a block or of a part of one to the reason why it stays as it is.
    """

    fused: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [("fused", name, what) for name, what in self.fused.items()]
        rows += [("refused", name, why) for name, why in self.refused.items()]
        if not rows:
            return "no residual tails found"
        named = [(outcome, name or "(the model itself)", text) for outcome, name, text in rows]
        widths = [max(len(row[i]) for row in named) for i in range(2)]
        return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in named)
