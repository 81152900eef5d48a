"""What can be fused in one block, found without changing it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from torch import nn

from .matching import Matcher
from .options import Options
from .program import Program
from .tracer import UntraceableError
from .tracing import trace

_NO_OPTIONS = Options()


@dataclass
class Plan:
    """The outcome for one block.

    Attributes:
        program: what to run in the place of its forward; None where there is nothing to fuse.
        refused: path in the block ("" for itself) to the reason why it stays as it is.
        description: the tails, for people.
        traceable: whether the block has a graph at all.
        norms: paths of the batch norms that the tails take.
        left: path of a norm, or "" for an addition, that is no part of a tail, to the reason.
        options: of a block of this package, what is done with its other norms.
        waits: whether it has only norms by themselves, and ends in what an addition around it may take.
    """

    program: Program | None = None
    refused: dict[str, str] = field(default_factory=dict)
    description: str = ""
    traceable: bool = True
    norms: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    options: Options = _NO_OPTIONS
    waits: bool = False


def plan(block: nn.Module, leaves: Set[nn.Module] = frozenset(), options: Options = _NO_OPTIONS) -> Plan:
    """Traces a block and finds its tails; its graph does not look into ``leaves``."""
    if "forward" in vars(block):
        return Plan(refused={"": "its forward is replaced on the instance"}, traceable=False)
    try:
        graph, leaves = trace(block, leaves)
    except UntraceableError as error:
        return Plan(refused={"": str(error)}, traceable=False)
    matcher = Matcher(graph, block, options.norms)
    if not matcher.tails:
        return Plan(refused=matcher.refused, left=matcher.left)
    description = "; ".join(tail.describe() for tail in matcher.tails)
    if matcher.outside:
        outside = ", ".join(f"{path}: {reason}" for path, reason in matcher.outside.items())
        description += f" (outside: {outside})"
    return Plan(
        Program(block, graph, leaves, matcher.tails, options),
        matcher.refused,
        description,
        norms=[path for tail in matcher.tails for path in tail.norms()],
        left=matcher.left,
        waits=matcher.open_ended and all(tail.addition is None for tail in matcher.tails),
    )
