"""Compiled code: its instructions, loops, and the shortest way through a loop that does certain work.

A loop's code has a branch for every layout. The shortest of all ways that do the work is the one of vectors and dense
rows. The work is told by how often the way comes by certain instructions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple, TypeAlias

# How often instructions whose names begin so are on the way.
Work: TypeAlias = Mapping[str, int]
# First and last instruction, by their numbers in the code.
Loop: TypeAlias = tuple[int, int]

_LABEL = re.compile(r"^(\.L_\w+):")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+ +)?([A-Z][\w.]*)(.*)")


class Instruction(NamedTuple):
    name: str
    operands: str


@dataclass(frozen=True)
class _Block:
    """Instructions that follow each other, by their numbers, and the beginnings of the blocks that may follow."""

    inside: range
    following: list[int]


class Code:
    """A kernel's code (`binary.disassembled`).

    Attributes:
        instructions: in their order.
    """

    def __init__(self, text: str) -> None:
        self.instructions: list[Instruction] = []
        labels: dict[str, int] = {}
        jumps: list[tuple[int, str, bool]] = []
        for line in text.splitlines():
            if label := _LABEL.match(line):
                labels[label[1]] = len(self.instructions)
            elif found := _INSTRUCTION.match(line):
                if found[2] == "BRA" and (target := re.search(r"\.L_\w+", found[3])):
                    jumps.append((len(self.instructions), target[0], bool(found[1])))
                self.instructions.append(Instruction(found[2], found[3]))
        self._labelled = set(labels.values())
        # Where a jump leads to, and whether it may also go on.
        self._jumps = {at: (labels[target], may_go_on) for at, target, may_go_on in jumps if target in labels}

    @property
    def names(self) -> list[str]:
        """Of the instructions, with their modifiers, "LDGSTS.E.BYPASS.128"."""
        return [instruction.name for instruction in self.instructions]

    def straight_runs(self) -> list[list[str]]:
        """Names of instructions that always follow each other: none jumps, or is jumped to."""
        starts = sorted({0, *self._labelled, *(at + 1 for at in self._jumps)})
        names = self.names
        return [names[a:b] for a, b in zip(starts, [*starts[1:], len(names)], strict=True) if a < b]

    def innermost_loops(self) -> list[list[str]]:
        """Names of the instructions of the loops that have no other inside."""
        return [self.names[first : last + 1] for first, last in self.loops_with("")]

    def loops_with(self, name: str) -> Iterator[Loop]:
        """The loops that have an instruction whose name begins so, and no other such loop inside."""
        back = [(target, at) for at, (target, _) in self._jumps.items() if target <= at]
        loops = [
            (first, last) for first, last in back if any(i.name.startswith(name) for i in self.instructions[first:last])
        ]
        for first, last in loops:
            if not any((first, last) != (a, b) and first <= a and b <= last for a, b in loops):
                yield first, last

    def shortest_way(self, loop: Loop, work: Work) -> list[int] | None:
        """Instructions of one turn that does the work, by their numbers; None where no turn does.

        By Dijkstra's algorithm; a place is a block, and how much of the work has been done at its end.
        """
        first, last = loop
        blocks, goal = self._blocks(loop), tuple(work.values())
        parts = {
            at: tuple(sum(self.instructions[i].name.startswith(name) for i in block.inside) for name in work)
            for at, block in blocks.items()
        }

        def done(before: tuple[int, ...], at: int) -> tuple[int, ...]:
            return tuple(min(most, a + b) for most, a, b in zip(goal, before, parts[at], strict=True))

        places = [(len(blocks[first].inside), [first], done((0,) * len(goal), first))]
        seen: set[tuple[int, tuple[int, ...]]] = set()
        while places:
            count, way, so_far = heappop(places)
            at = way[-1]
            if (at, so_far) in seen:
                continue
            seen.add((at, so_far))
            if so_far == goal and last in blocks[at].inside:
                return [i for block in way for i in blocks[block].inside]
            for to in blocks[at].following:
                heappush(places, (count + len(blocks[to].inside), [*way, to], done(so_far, to)))
        return None

    def _blocks(self, loop: Loop) -> dict[int, _Block]:
        """Those of a loop, by their first instructions."""
        first, last = loop
        inside = range(first, last + 1)
        jumps = {at: jump for at, jump in self._jumps.items() if at in inside}
        ends = {at for at in inside if self.instructions[at].name in ("EXIT", "RET")}
        starts = {first, *(at + 1 for at in [*jumps, *ends]), *(target for target, _ in jumps.values())}
        ordered = sorted(starts.intersection(inside))
        found = {}
        for begin, end in zip(ordered, [*ordered[1:], last + 1], strict=True):
            target, goes_on = jumps.get(end - 1, (end, False))
            following = {target, *([end] if goes_on else [])} if end - 1 not in ends else set()
            found[begin] = _Block(range(begin, end), [to for to in following if to in inside and to != first])
        return found
