"""The stage ``train``: whole training steps of ResNet-50 in bfloat16, channels_last, each side in its own process."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..table import table
from .process import run
from .record import Record
from .train_side import COMPILED, EAGER, FUSED

BATCHES = (64, 256)
REHEARSED_BATCHES = (4,)
SECONDS = 440.0
# What must be left for a side to be begun, and what it may take, so that one that hangs leaves something to the others.
NEEDED_S = {EAGER: 60.0, FUSED: 60.0, COMPILED: 90.0}
LIMIT_S = {EAGER: 110.0, FUSED: 110.0, COMPILED: 240.0}
# Of what the eager network learns in its first steps: what another side may be away from it after them.
LEARNING_TOLERANCE = 0.1
Item = Mapping[str, Any]


def run_stage(record: Record, rehearse: bool) -> None:
    if rehearse:
        record.note("a rehearsal on the CPU, of a small network: no time here means anything")
    left_out = []
    for side, batch in order(REHEARSED_BATCHES if rehearse else BATCHES):
        left_s = SECONDS - record.seconds
        if left_s < NEEDED_S[side]:
            left_out.append(f"{side}, batch {batch}")
        else:
            _run_side(record, side, batch, min(left_s, LIMIT_S[side]), rehearse)
    if left_out:
        record.add(left_out=left_out)
        record.note(f"no time was left for: {'; '.join(left_out)}")
    for side, difference in learning_differences(record.items):
        _complain(record, side, difference)
    _summarise(record)


def order(batches: Sequence[int]) -> list[tuple[str, int]]:
    """What is compiled comes last: it takes longest."""
    return [*((side, batch) for batch in batches for side in (EAGER, FUSED)), *((COMPILED, batch) for batch in batches)]


def _run_side(record: Record, side: str, batch: int, limit_s: float, rehearse: bool) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.train_side", "--side", side, "--batch", str(batch)]
    ended = run([*command, *(["--rehearse"] if rehearse else [])], limit_s=limit_s, on_line=record.take)
    where = f"{side}, batch {batch}"
    own = [item for item in record.items if (item.get("side"), item.get("batch")) == (side, batch)]
    for item in own:
        if "ms" in item:
            record.log(one_line(item))
        if "not_timed" in item:
            record.note(f"{where}: {item['not_timed'][:200]}")
    if ended.problem is not None:
        _complain(record, side, f"{where}: {ended.problem}")


def _complain(record: Record, side: str, text: str) -> None:
    """What the compiler does wrong is no failure of this project."""
    if side == COMPILED:
        record.note(text)
    else:
        record.problem(text)


def learning_differences(items: Iterable[Item]) -> list[tuple[str, str]]:
    """Sides, and how they learn something else in their first steps than the eager network does in the same."""
    losses = {(item["side"], item["batch"]): item["losses"] for item in items if "losses" in item}
    differences = []
    for (side, batch), own in losses.items():
        eager = losses.get((EAGER, batch), own)
        if not abs(own[-1] - eager[-1]) <= LEARNING_TOLERANCE * abs(eager[0] - eager[-1]):
            text = f"{side}, batch {batch}: losses {_shown(own)}, of the eager network {_shown(eager)}"
            differences.append((side, text))
    return differences


def _shown(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.3f}" for loss in losses)


def _summarise(record: Record) -> None:
    timed = [item for item in record.items if "ms" in item]
    record.log(
        "\nResNet-50, a training step; peak memory beyond what is held: parameters, optimizer's state and the batch;"
    )
    record.log("ratios of the fused network's time and peak memory to those of the side")
    record.log(steps_table(timed))
    record.headline = ", ".join(map(one_line, timed))
    if not timed:
        record.problem("nothing was timed")


def one_line(item: Item) -> str:
    """A side's time as it comes."""
    return f"{item['side']}, batch {item['batch']}: {item['ms']:.1f} ms"


def steps_table(items: Sequence[Item]) -> str:
    """A line a batch and side, those of a batch together."""
    fused = {item["batch"]: item for item in items if item["side"] == FUSED}
    header = ("", "ms", "quartiles", "images/s", "peak MB", "held MB", "first loss", "last", "time", "memory")
    rows = [_row(item, fused.get(item["batch"], {})) for item in sorted(items, key=lambda item: item["batch"])]
    return table(header, rows)


def _row(item: Item, fused: Item) -> tuple[str, ...]:
    return (
        f"{item['side']}, batch {item['batch']}",
        f"{item['ms']:.1f}",
        f"{item['ms_lower']:.1f} to {item['ms_upper']:.1f}",
        f"{item['images_s']:.0f}",
        *("" if item[key] is None else f"{item[key] / 1e6:.0f}" for key in ("peak_bytes", "held_bytes")),
        f"{item['losses'][0]:.3f}",
        f"{item['losses'][-1]:.3f}",
        *(_ratio(fused, item, key) for key in ("ms", "peak_bytes")),
    )


def _ratio(fused: Item, item: Item, key: str) -> str:
    return f"{fused[key] / item[key]:.2f}" if fused.get(key) and item[key] and item is not fused else ""
