"""The files of counted amounts: of the kernels as they are, and as they were when a GPU measured them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

from ..errors import UserError
from ..phases.columns import DIRECT, LIBRARY, MOMENTS
from ..progress import progress
from ..tail_shapes import RESNET18, RESNET50, TailShape
from .counting import Amounts, Counter

# Keys are tail, way and phase, as `benchmarks phases` names them.
Counts: TypeAlias = Mapping[tuple[str, str, str], Amounts]

# The counts of commit 82e7ce2, whose times are in results/phases-h100.json.
THEN = Path(__file__).with_name("counts-82e7ce2.json")
NOW = Path(__file__).with_name("counts.json")
_MULTIPROCESSORS = 132
# Of a multiprocessor, as the launch bounds have them (``docs/kernels.md``).
_BLOCKS = 2
# What the grid of a GPU takes of the address space: a stack and its guard for each thread.
_MAPPINGS = Path("/proc/sys/vm/max_map_count")
_MAPPINGS_NEEDED = 200_000


def read(path: Path) -> Counts:
    """A file that `write` has written."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row.pop("tail"), row.pop("way"), row.pop("phase")): Amounts(**row) for row in rows}


def write(path: Path, counts: Counts, commit: str | None = None) -> None:
    """With the commit that was counted; by default the present one."""
    rows = [
        {"tail": tail, "way": way, "phase": phase, **{k: round(v, 3) for k, v in asdict(amounts).items()}}
        for (tail, way, phase), amounts in counts.items()
    ]
    lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    text = f'{{\n  "commit": {json.dumps(commit or _head())},\n  "rows": [\n{lines}\n  ]\n}}\n'
    path.write_text(text, encoding="utf-8")


def _head() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def count_all() -> Counts:
    """Counts every tail of ResNet-50 and -18, at the sizes of ``benchmarks phases``.

    Raises:
        UserError: the operating system gives a process too few mappings.
    """
    if _MAPPINGS.exists() and int(_MAPPINGS.read_text()) < _MAPPINGS_NEEDED:
        raise UserError(f"a grid's threads need more mappings: sysctl vm.max_map_count={5 * _MAPPINGS_NEEDED}")
    counts: dict[tuple[str, str, str], Amounts] = {}
    each = [(shape, way) for shape in (*RESNET50, *RESNET18) for way in ways_of(shape)]
    with progress("counting", len(each)) as step:
        for shape, way in each:
            for phase, amounts in counter(shape, way).counted():
                counts[f"{shape.network} {shape.block}", way, phase] = amounts
            step()
    return counts


def ways_of(shape: TailShape) -> list[str]:
    """Ways of a tail that the kernels compute."""
    if shape.inner is not None:
        return [MOMENTS, LIBRARY]
    return [MOMENTS] if shape.projections else [DIRECT]


def counter(shape: TailShape, way: str) -> Counter:
    """Counts a tail, computed in a way, on that GPU."""
    if way == LIBRARY:  # what the convolution has written is a direct source
        shape = replace(shape, inner=None)
    return Counter(shape, _BLOCKS * _MULTIPROCESSORS, _MULTIPROCESSORS)
