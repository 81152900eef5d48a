"""Residual tails as they are found in a block's graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx


@dataclass
class Part:
    """One branch as found.

    Attributes:
        source: the node whose value the branch starts from.
        nodes: what is taken, last first.
        conv, norm: paths of the modules taken.
        modules: path and kind of every module taken.
        padding, stride: zero channels before and after, and subsampling, of a padded identity.
    """

    source: fx.Node
    nodes: list[fx.Node] = field(default_factory=list)
    conv: str | None = None
    norm: str | None = None
    modules: list[tuple[str, type]] = field(default_factory=list)
    padding: tuple[int, int] | None = None
    stride: int = 1

    @property
    def is_identity(self) -> bool:
        return self.conv is None and self.norm is None and self.padding is None

    def describe(self) -> str:
        if self.padding is not None:
            return "zero pad"
        return " + ".join(path for path in (self.conv, self.norm) if path) or "identity"


@dataclass
class Tail:
    """A tail as found; one without an addition, and then without a shortcut, is a norm by itself.

    Attributes:
        relu: the node behind the sum or the norm, if there is one.
        relu_within: whether the norm's module has a relu in it.
    """

    main: Part
    shortcut: Part | None
    addition: fx.Node | None
    relu: fx.Node | None
    relu_within: bool = False

    @property
    def parts(self) -> list[Part]:
        return [self.main] if self.shortcut is None else [self.main, self.shortcut]

    @property
    def activated(self) -> bool:
        return self.relu is not None or self.relu_within

    @property
    def last(self) -> fx.Node:
        return self.relu or self.addition or self.main.nodes[0]

    def nodes(self) -> list[fx.Node]:
        """What the tail replaces, in the graph's order."""
        taken = {*(node for part in self.parts for node in part.nodes), self.addition, self.last}
        return [node for node in self.last.graph.nodes if node in taken]

    def norms(self) -> list[str]:
        """Paths of the norms that it takes."""
        return [part.norm for part in self.parts if part.norm is not None]

    def describe(self) -> str:
        parts = [part.describe() for part in self.parts]
        return " + ".join([*parts, "relu"] if self.activated else parts)
