"""The stages ``time`` and ``backward``: the tails of ResNet-50 and ResNet-18 in bfloat16, channels_last."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ..table import table
from .measure import FORWARD
from .process import run
from .record import Record

SECONDS = 420.0
# The process stops itself between two tails; one that hangs is stopped here.
LIMIT_S = 450.0
_EXPLAINED = "GB/s of the fused tail's counted bytes; ratios of fused time to others' time"
COLUMNS = ("fused", "moments", "materialise", "conv3 apart", "eager", "torch.compile")


def time_forward(record: Record, rehearse: bool) -> None:
    """In training and in evaluation."""
    _measure(record, rehearse)
    _summarise(record)
    for mode in FORWARD:
        record.log(f"\n{mode.name}, us; {_EXPLAINED}")
        record.log(times_table([item for item in _timed(record) if item["mode"] == mode.name]))


def time_backward(record: Record, rehearse: bool) -> None:
    """In training, forward and backward as one."""
    _measure(record, rehearse, "--backward")
    _summarise(record)
    record.log(f"\nforward + backward, us; {_EXPLAINED}")
    record.log(times_table(_timed(record)))
    record.log("\npeak memory of forward + backward, MB beyond inputs, parameters and the output's gradient")
    record.log(memory_table(_timed(record)))


def _measure(record: Record, rehearse: bool, *options: str) -> None:
    arguments = [*options, "--seconds", str(SECONDS), *(["--rehearse"] if rehearse else [])]
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


def _where(item: Mapping[str, Any]) -> str:
    return f"{item['tail']} {item['mode']}{' by torch.compile' if item['compiled'] else ''}"


def one_line(item: Mapping[str, Any]) -> str | None:
    """A tail's times as they come."""
    if "sides" not in item:
        return None
    times = ", ".join(f"{name} {side['us']:.1f} us" for name, side in item["sides"].items())
    return f"{item['tail']} {item['mode']}: {times}"


def _timed(record: Record) -> list[dict[str, Any]]:
    return [item for item in record.items if "sides" in item]


def _summarise(record: Record) -> None:
    timed = _timed(record)
    tails = {(item["tail"], item["mode"]) for item in timed}
    compiled = sum(item["compiled"] for item in timed)
    record.headline = f"{len(tails)} tails and modes timed, {compiled} by torch.compile"
    if not timed:
        record.problem("nothing was timed")


def times_table(items: Iterable[Mapping[str, Any]]) -> str:
    """A line a tail. Ratios are of times that were taken side by side."""
    header = ("", *COLUMNS, "GB/s", "/eager", "/compile")
    rows = []
    for name, sides in _by_tail(items).items():
        merged, eager, compiled = _merged(sides), sides.get(False, {}), sides.get(True, {})
        times = [_cell(merged, column, "us", "{:.1f}") for column in COLUMNS]
        speed = _cell(merged, "fused", "gb_s", "{:.0f}")
        rows.append((name, *times, speed, _ratio(eager, "eager"), _ratio(compiled, "torch.compile")))
    return table(header, rows)


def memory_table(items: Iterable[Mapping[str, Any]]) -> str:
    """A line a tail, in MB."""
    rows = []
    for name, sides in _by_tail(items).items():
        merged = _merged(sides)
        rows.append((name, *(_cell(merged, column, "peak_bytes", "{:.1f}", 1e-6) for column in COLUMNS)))
    return table(("", *COLUMNS), rows)


def _by_tail(items: Iterable[Mapping[str, Any]]) -> dict[str, dict[bool, Mapping[str, Any]]]:
    """Of each tail, the sides beside eager operations (False) and beside torch.compile (True)."""
    by_tail: dict[str, dict[bool, Mapping[str, Any]]] = {}
    for item in items:
        by_tail.setdefault(item["tail"], {})[item["compiled"]] = item["sides"]
    return by_tail


def _merged(sides: Mapping[bool, Mapping[str, Any]]) -> dict[str, Any]:
    """What both have is taken from beside eager operations."""
    return {**sides.get(True, {}), **sides.get(False, {})}


def _cell(sides: Mapping[str, Any], side: str, key: str, form: str, factor: float = 1.0) -> str:
    value = sides.get(side, {}).get(key)
    return "" if value is None else form.format(value * factor)


def _ratio(sides: Mapping[str, Any], other: str) -> str:
    if "fused" not in sides or other not in sides:
        return ""
    return f"{sides['fused']['us'] / sides[other]['us']:.2f}"
