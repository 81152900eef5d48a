"""Instructions that a warp issues for one stage of a kernel's pipeline, read from its code.

A stage's code has a branch for every layout. Of all ways through the loop that do what a stage does, the shortest is
the one of vectors and dense rows: what it does is told by how often it comes by certain instructions.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import TypeAlias

from .binary import Kernel, disassembled, extract

# How often instructions whose names begin so are on the way.
Work: TypeAlias = Mapping[str, int]

COMMITS = "LDGDEPBAR"  # what tells the loop of a pipeline from others
_COPIES: Work = {"DEPBAR": 1, "BAR": 1, "LDGSTS.E.BYPASS.128": 4}
_ANY: Work = {**_COPIES, "HMMA": 32}
_MASKED: Work = {"LDGSTS.E": 5, "STS.128": 2}  # copies the masks, too, and stores what it has masked
# In half precision. Of x^T x, tiles on the diagonal copy one operand and sum its columns; one of g^T x may sum g's.
STAGES: Mapping[tuple[str, str], Work] = {
    ("forward", "x W^T"): {**_ANY, "LDSM.16.M88": 12},
    ("forward", "what is added"): {**_COPIES, "FADD": 32},
    ("forward", "the same, and y stored with its mask"): {**_COPIES, "FADD": 32, "STG.E.128": 8, "STG.E.U8": 8},
    ("forward", "x^T x"): {**_ANY, "LDSM.16.MT88": 12},
    ("forward", "x^T x, diagonal"): {**_ANY, "LDSM.16.MT88": 12, "LDGSTS.E.BYPASS.128": 2, "FADD": 16},
    ("backward", "g^T x"): {**_ANY, **_MASKED, "LDSM.16.MT88": 12},
    ("backward", "g^T x, with sums of g"): {**_ANY, **_MASKED, "LDSM.16.MT88": 12, "FADD": 16},
    ("backward", "g W"): {**_ANY, "LDSM.16.M88": 12},
    ("backward", "g W, g masked"): {**_ANY, **_MASKED, "LDSM.16.M88": 12},
    ("backward", "g W, and dx stored"): {**_ANY, "LDSM.16.M88": 12, "STG.E.128": 8},
}

_LABEL = re.compile(r"^(\.L_\w+):")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+ +)?([A-Z][\w.]*)(.*)")


@dataclass(frozen=True)
class _Block:
    """Instructions that follow each other, and the blocks that may follow."""

    names: list[str]
    following: list[int]


class _Code:
    def __init__(self, code: str) -> None:
        self.names: list[str] = []
        labels: dict[str, int] = {}
        jumps: list[tuple[int, str, bool]] = []
        for line in code.splitlines():
            if label := _LABEL.match(line):
                labels[label[1]] = len(self.names)
            elif found := _INSTRUCTION.match(line):
                if found[2] == "BRA" and (target := re.search(r"\.L_\w+", found[3])):
                    jumps.append((len(self.names), target[0], bool(found[1])))
                self.names.append(found[2])
        # Where a jump leads to, and whether it may also go on.
        self.jumps = {at: (labels[target], may_go_on) for at, target, may_go_on in jumps if target in labels}

    def pipelines(self) -> Iterator[tuple[int, int]]:
        """First and last instruction of each loop that commits copies and has no such loop inside."""
        back = [(target, at) for at, (target, _) in self.jumps.items() if target <= at]
        loops = [(first, last) for first, last in back if COMMITS in self.names[first:last]]
        for first, last in loops:
            if not any((first, last) != (a, b) and first <= a and b <= last for a, b in loops):
                yield first, last

    def blocks(self, first: int, last: int) -> dict[int, _Block]:
        """Those of a loop, by their first instructions."""
        inside = range(first, last + 1)
        jumps = {at: jump for at, jump in self.jumps.items() if at in inside}
        starts = {first, *(at + 1 for at in jumps), *(target for target, _ in jumps.values())}
        starts |= {at + 1 for at in inside if self.names[at] in ("EXIT", "RET")}
        ordered = sorted(starts.intersection(inside))
        found = {}
        for begin, end in zip(ordered, [*ordered[1:], last + 1], strict=True):
            target, goes_on = jumps.get(end - 1, (end, False))
            following = {target, *([end] if goes_on else [])} if self.names[end - 1] not in ("EXIT", "RET") else set()
            found[begin] = _Block(self.names[begin:end], [to for to in following if to in inside and to != first])
        return found


def collect(library: Path, architecture: str) -> dict[tuple[str, str], int]:
    """Instructions of each of `STAGES`, of the library's kernels for bfloat16.

    Raises:
        binary.ToolMissingError: nothing disassembles here.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubins = extract(library, architecture, Path(folder))
        code = {kernel: text for cubin in cubins for kernel, text in disassembled(cubin).items()}
    found = {}
    for (kind, stage), work in STAGES.items():
        count = fewest_instructions(code[Kernel(kind, "bfloat16", (1,))], work)
        if count is None:
            raise ValueError(f"no loop of {kind} has a stage of {stage} that does {dict(work)}")
        found[kind, stage] = count
    return found


def fewest_instructions(code: str, work: Work) -> int | None:
    """Of a kernel's code (`binary.disassembled`): from one stage to the next, doing this work; None where none does."""
    of = _Code(code)
    found = [_shortest(of.blocks(first, last), first, last, work) for first, last in of.pipelines()]
    return min((count for count in found if count is not None), default=None)


def _shortest(blocks: Mapping[int, _Block], first: int, last: int, work: Work) -> int | None:
    """Dijkstra's algorithm; a place is a block, and how much of the work has been done at its end."""
    goal = tuple(work.values())
    parts = {
        at: tuple(sum(name.startswith(prefix) for name in block.names) for prefix in work)
        for at, block in blocks.items()
    }

    def done(before: tuple[int, ...], at: int) -> tuple[int, ...]:
        return tuple(min(most, a + b) for most, a, b in zip(goal, before, parts[at], strict=True))

    places = [(len(blocks[first].names), first, done((0,) * len(goal), first))]
    seen: set[tuple[int, tuple[int, ...]]] = set()
    while places:
        count, at, so_far = heappop(places)
        if (at, so_far) in seen:
            continue
        seen.add((at, so_far))
        if so_far == goal and at + len(blocks[at].names) == last + 1:
            return count
        for to in blocks[at].following:
            heappush(places, (count + len(blocks[to].names), to, done(so_far, to)))
    return None
