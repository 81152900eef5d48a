"""What a warp does in one turn of the kernels' loops, read off their code: instructions, and loads under way."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .binary import Kernel, disassembled, extract
from .ways import Code, Work

_COMMITS = "LDGDEPBAR"  # what tells the loop of a pipeline from others
_LOAD = "LDG.E.128"
_COPIES: Work = {"DEPBAR": 1, "BAR": 1, "LDGSTS.E.BYPASS.128": 4}
_ANY: Work = {**_COPIES, "HMMA": 32}
_MASKED: Work = {"LDGSTS.E": 5, "STS.128": 2}  # copies the masks, too, and stores what it has masked
_BOTH: Work = {**_COPIES, "LDGSTS.E.BYPASS.128": 8}
_ROWS: Work = {**_BOTH, "HMMA": 64, "LDSM.16.M88": 24}
_ADDED: Work = {**_BOTH, "FADD": 64}
# Stages of pipelines, in half precision. Of x^T x, tiles on the diagonal copy one operand and sum its columns; one of
# g^T x may sum g's. Along the rows of a matrix, a turn has two stages.
STAGES: Mapping[tuple[str, str], Work] = {
    ("forward", "x W^T, two stages"): _ROWS,
    ("forward", "what is added, two stages"): _ADDED,
    ("forward", "the same, and y stored with its mask"): {**_ADDED, "STG.E.128": 8, "STG.E.U8": 8},
    ("forward", "x^T x"): {**_ANY, "LDSM.16.MT88": 12},
    ("forward", "x^T x, diagonal"): {**_ANY, "LDSM.16.MT88": 12, "LDGSTS.E.BYPASS.128": 2, "FADD": 16},
    ("backward", "g^T x"): {**_ANY, **_MASKED, "LDSM.16.MT88": 12},
    ("backward", "g^T x, with sums of g"): {**_ANY, **_MASKED, "LDSM.16.MT88": 12, "FADD": 16},
    ("backward", "g W, two stages"): _ROWS,
    ("backward", "g W, g masked, two stages"): {**_ROWS, "LDGSTS.E": 10, "STS.128": 4},
    ("backward", "g W, and dx stored"): {**_ROWS, "STG.E.128": 8},
}
# Turns of loops without a product, by the 16-byte loads that go ahead of their first use: what is streamed
# (csrc/stream.cuh), and partial sums of ranges (csrc/vectors.cuh). With the number of the kernel that has them.
STREAMS: Mapping[tuple[str, int, str], Work] = {
    ("forward", 0, "eight vectors into sums"): {_LOAD: 8, "FADD": 32},
    ("forward", 0, "three vectors of y, of two sources"): {_LOAD: 6, "STG.E.128": 3, "STG.E.U8": 3},
    ("forward", 1, "nine partial sums of x^T x"): {_LOAD: 9, "DADD": 36},
    ("backward", 0, "three vectors of g and z into sums"): {_LOAD: 6, "FADD": 12, "LDG.E.U8": 3},
    ("backward", 0, "three vectors of dz"): {_LOAD: 6, "STG.E.128": 3, "LDG.E.U8": 3},
    ("backward", 1, "nine partial sums of g^T x"): {_LOAD: 9, "DADD": 36},
}


def collect(library: Path, architecture: str) -> dict[tuple[str, str], int]:
    """Instructions of each of `STAGES` and of a turn of each of `STREAMS`, of the library's kernels for bfloat16.

    Raises:
        binary.ToolMissingError: nothing disassembles here.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubins = extract(library, architecture, Path(folder))
        code = {kernel: text for cubin in cubins for kernel, text in disassembled(cubin).items()}
    wanted = [(kind, 1, name, work, _COMMITS) for (kind, name), work in STAGES.items()]
    wanted += [(*key, work, _LOAD) for key, work in STREAMS.items()]
    found = {}
    for kind, number, name, work, mark in wanted:
        count = fewest_instructions(code[Kernel(kind, "bfloat16", (number,))], work, mark)
        if count is None:
            raise ValueError(f"no loop of {kind} has a turn of {name} that does {dict(work)}")
        found[kind, name] = count
    return found


def fewest_instructions(code: str, work: Work, mark: str = _COMMITS) -> int | None:
    """Of a kernel's code: in a turn, doing this work, of a loop that has the instruction `mark`; None where none does.

    By default, from one stage of a pipeline to the next.
    """
    of = Code(code)
    ways = [of.shortest_way(loop, work) for loop in of.loops_with(mark)]
    return min((len(way) for way in ways if way is not None), default=None)


def loads_under_way(code: str, work: Work) -> int | None:
    """The most 16-byte loads that are under way at the same time, in a turn that does this work; None if none does."""
    of = Code(code)
    ways = [of.shortest_way(loop, work) for loop in of.loops_with(_LOAD)]
    return max((_under_way(of, way) for way in ways if way is not None), default=None)


def _under_way(of: Code, way: list[int]) -> int:
    """A load is under way until an instruction names one of its registers."""
    waiting: list[set[int]] = []
    most = 0
    for at in way:
        name, operands = of.instructions[at]
        registers = [int(number) for number in re.findall(r"\bR(\d+)\b", operands)]
        is_load = name.startswith(_LOAD)
        waiting = [loaded for loaded in waiting if loaded.isdisjoint(registers[1:] if is_load else registers)]
        if is_load:
            waiting.append(set(range(registers[0], registers[0] + 4)))
            most = max(most, len(waiting))
    return most
