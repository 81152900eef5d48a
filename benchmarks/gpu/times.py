"""The stage ``time``: the tails of ResNet-50 and ResNet-18 in bfloat16, channels_last."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ..table import table
from .process import run
from .record import Record

SECONDS = 420.0
# The process stops itself between two tails; one that hangs is stopped here.
LIMIT_S = 450.0
COLUMNS = ("fused", "moments", "materialise", "conv3 apart", "eager", "torch.compile")


def run_stage(record: Record, rehearse: bool) -> None:
    arguments = ["--seconds", str(SECONDS), *(["--rehearse"] if rehearse else [])]
    command = [sys.executable, "-m", "benchmarks.gpu.measure", *arguments]
    if rehearse:
        record.note("a rehearsal on the CPU: no time here means anything")

    def take(line: str) -> None:
        record.take(line)
        if record.items and (shown := one_line(record.items[-1])) and line.startswith("@"):
            record.log(shown)

    ended = run(command, limit_s=LIMIT_S, on_line=take)
    if ended.problem is not None:
        record.problem(f"measuring: {ended.problem}")
    for item in record.items:
        if "not_compiled" in item:
            record.note(f"{item['tail']}, {item['mode']}: {item['not_compiled'][:200]}")
        if item.get("left_out"):
            record.note(f"no time was left for: {', '.join(map(_where, item['left_out']))}")
    _summarise(record)


def _where(item: Mapping[str, Any]) -> str:
    return f"{item['tail']} {item['mode']}{' by torch.compile' if item['compiled'] else ''}"


def one_line(item: Mapping[str, Any]) -> str | None:
    """A tail's times as they come."""
    if "sides" not in item:
        return None
    times = ", ".join(f"{name} {side['us']:.1f} us" for name, side in item["sides"].items())
    return f"{item['tail']} {item['mode']}: {times}"


def _summarise(record: Record) -> None:
    timed = [item for item in record.items if "sides" in item]
    for mode in ("training", "eval"):
        record.log(f"\n{mode}, us; GB/s of the fused tail's counted bytes; ratios of fused time to others' time")
        record.log(times_table([item for item in timed if item["mode"] == mode]))
    tails = {(item["tail"], item["mode"]) for item in timed}
    compiled = sum(item["compiled"] for item in timed)
    record.headline = f"{len(tails)} tails and modes timed, {compiled} by torch.compile"
    if not timed:
        record.problem("nothing was timed")


def times_table(items: Iterable[Mapping[str, Any]]) -> str:
    """A line a tail. Ratios are of times that were taken side by side."""
    by_tail: dict[str, dict[bool, Mapping[str, Any]]] = {}
    for item in items:
        by_tail.setdefault(item["tail"], {})[item["compiled"]] = item["sides"]
    header = ("", *COLUMNS, "GB/s", "/eager", "/compile")
    return table(
        header, [(name, *_cells(sides.get(False, {}), sides.get(True, {}))) for name, sides in by_tail.items()]
    )


def _cells(eager: Mapping[str, Any], compiled: Mapping[str, Any]) -> list[str]:
    sides = {**compiled, **eager}
    cells = [f"{sides[name]['us']:.1f}" if name in sides else "" for name in COLUMNS]
    bandwidth = sides.get("fused", {}).get("gb_s")
    ratios = [_ratio(eager, "eager"), _ratio(compiled, "torch.compile")]
    return [*cells, "" if bandwidth is None else f"{bandwidth:.0f}", *ratios]


def _ratio(sides: Mapping[str, Any], other: str) -> str:
    if "fused" not in sides or other not in sides:
        return ""
    return f"{sides['fused']['us'] / sides[other]['us']:.2f}"
