"""What can be fused in one block, found without changing it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from torch import nn

from .matching import Matcher
from .program import Program
from .tracer import UntraceableError
from .tracing import trace


@dataclass
class Plan:
    """The outcome for one block.

    Attributes:
        program: what to run in the place of its forward; None where there is nothing to fuse.
        refused: path in the block ("" for itself) to the reason why it stays as it is.
        description: the tails, for people.
        traceable: whether the block has a graph at all.
    """

    program: Program | None = None
    refused: dict[str, str] = field(default_factory=dict)
    description: str = ""
    traceable: bool = True


def plan(block: nn.Module, leaves: Set[nn.Module] = frozenset()) -> Plan:
    """Traces a block and finds its tails; its graph does not look into ``leaves``."""
    if "forward" in vars(block):
        return Plan(refused={"": "its forward is replaced on the instance"}, traceable=False)
    try:
        graph, leaves = trace(block, leaves)
    except UntraceableError as error:
        return Plan(refused={"": str(error)}, traceable=False)
    matcher = Matcher(graph, block)
    if not matcher.tails:
        return Plan(refused=matcher.refused)
    description = "; ".join(tail.describe() for tail in matcher.tails)
    if matcher.outside:
        outside = ", ".join(f"{path}: {reason}" for path, reason in matcher.outside.items())
        description += f" (outside: {outside})"
    return Plan(Program(block, graph, leaves, matcher.tails), matcher.refused, description)
