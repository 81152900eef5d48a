"""The part ``counters``: what Nsight Compute counts of each phase of two tails, as a CSV file a tail.

Metrics are in the lines, each with its unit, and the phases' kernels in the columns: ``ncu-layer1.1.csv``.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..launches import PHASES
from ..process import item_of, run
from .record import Record
from .tools import PLACES, find

BLOCKS = ("layer1.1", "layer3.1")
METRICS = Path(__file__).with_name("ncu_metrics.txt")
KERNELS = r"regex:^(forward|backward)_kernel"
Table = dict[str, list[str]]


def run_part(record: Record, rehearse: bool) -> None:
    ncu = None if rehearse else find("ncu")
    if ncu is None and not rehearse:
        record.note(f"ncu was not found {PLACES}: nothing was counted")
        return
    for i, block in enumerate(BLOCKS):
        _count(record, ncu, block, record.left_s / (len(BLOCKS) - i))
    counted = [f"{item['block']}: {item['kernels']} kernels" for item in record.items if "kernels" in item]
    record.headline = ", ".join(counted) or record.headline


def command(ncu: Path | None, block: str) -> list[str]:
    """Without ncu, a rehearsal of what it would watch."""
    launches = [sys.executable, "-m", "benchmarks.gpu.phase_launches", block]
    if ncu is None:
        return [*launches, "--rehearse"]
    metrics = ",".join(METRICS.read_text(encoding="utf-8").split())
    # Clocks stay as training has them. Metrics take several runs of a kernel, and ncu empties caches ahead of each.
    options = ["--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"]
    only = ["--target-processes", "all", "--profile-from-start", "off", "--kernel-name", KERNELS]
    return [str(ncu), *options, *only, "--metrics", metrics, *launches]


def _count(record: Record, ncu: Path | None, block: str, limit_s: float) -> None:
    lines: list[str] = []
    ended = run(command(ncu, block), limit_s=limit_s, on_line=lines.append)
    ways = [item["way"] for item in map(item_of, lines) if item is not None]
    try:
        table = transposed(lines, ways) if ncu is not None else {}
    except ValueError as error:
        for line in lines[-20:]:
            record.log(line)
        record.problem(f"{block}: {error}; {ended.problem}")
        return
    if ended.problem is not None:
        record.problem(f"{block}: {ended.problem}")
    if ncu is None:
        record.add(block=block, ways=ways)
        record.headline = "launches rehearsed, nothing counted"
        return
    path = record.folder / f"ncu-{block}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([name, *values] for name, values in table.items())
    kernels, metrics = len(next(iter(table.values()))) - 1, len(table) - 1
    record.add(block=block, ways=ways, kernels=kernels, metrics=metrics, file=path.name)


def transposed(lines: Iterable[str], ways: Sequence[str]) -> Table:
    """From ncu's output, where a line is a kernel, with the units in the first: metrics by name, the unit ahead.

    Raises:
        ValueError: there is no table in the output.
    """
    rows = list(csv.DictReader(line for line in lines if line.startswith('"')))
    if len(rows) < 2:
        raise ValueError("ncu printed no table")
    units, *kernels = rows
    columns = [_column(i, row["Kernel Name"], ways) for i, row in enumerate(kernels)]
    names = [name for name in units if "__" in name]
    return {"metric": ["unit", *columns], **{name: [units[name], *(row[name] for row in kernels)] for name in names}}


def _column(index: int, kernel: str, ways: Sequence[str]) -> str:
    """Such as "moments: forward apply: forward_kernel<HalfProducts<BFloat16>, 1>"."""
    which, phase = divmod(index, len(PHASES))
    way = ways[which] if which < len(ways) else "?"
    return f"{way}: {PHASES[phase]}: {re.sub(r'^void |fused_resnet::', '', kernel).split('(')[0]}"
