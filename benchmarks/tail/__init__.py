"""Times every tail of the ResNets against PyTorch's other ways, and shows them on a roofline.

Every distinct tail of ResNet-18 to -152, the wide nets and CIFAR's, forward and with backward, in training and in
evaluation: by the fused operation, by PyTorch's operations (channels_last and contiguous), by torch.compile and by
cuDNN's own fused operator.

All ways get the same values and are compared before any is timed; a wrong one is told, and not timed. The ways of a
tail are timed in turn, on inputs that no cache still holds. The ceilings of the roofline, a large copy and a large
product of matrices, are measured in the same run.

First all tails are timed without compilers, then again with torch.compile, then with its max-autotune, for as long as
there is time.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

import fused_resnet

from .. import options
from ..accuracy import TOLERANCE
from ..errors import UserError
from ..progress import progress
from ..provenance import provenance
from ..result import Column, Result, Row, table
from ..tails import MODES
from . import plan
from .measure import Measured, Outcome, measure_tail, said
from .plan import Item, Plan
from .ways import TURNS, WAYS
from .work import compulsory, measure_ceilings

COLUMNS = [
    Column("tail", "key"),
    Column("mode", "key"),
    Column("way", "key"),
    Column("kind", "key", shown=False),
    Column("blocks", "key", shown=False),
    Column("time", "measured", "us", better="lower"),
    Column("queued in", "measured", "us", better="lower", shown=False),
    Column("moved", "measured", "GB/s", better="higher"),
    Column("computed", "measured", "TFLOP/s", better="higher"),
    Column("roofline", "measured", better="higher"),
    Column("peak memory", "measured", "B", better="lower"),
    Column("error", "measured", better="lower", shown=False),
    Column("launches", "counted", better="lower"),
    Column("bytes", "counted", "B", better="lower"),
    Column("operations", "counted", better="lower", shown=False),
    Column("needed bytes", "counted", "B", shown=False),
    Column("needed operations", "counted", shown=False),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    options.add_arguments(parser, quick="one small tail of each kind")
    plan.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measures for as long as there is time; 0 where every fused tail computed what it should, 1 otherwise.

    The JSON file, if one is asked for, is there after every tail.
    """
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    dtype = options.dtype_of(arguments.dtype, device)
    try:
        backend = fused_resnet.use_backend(arguments.backend)
    except RuntimeError as error:
        raise UserError(f"--backend is {arguments.backend!r}: {error}") from error
    with backend:
        planned = plan.plan_of(arguments, options.prepared(device), dtype)
        rows = [(t.name, t.shape.kind, t.shape.output, t.counts.replace("resnet", "")) for t in planned.tails]
        print(f"{table(('tail', 'main+shortcut', 'output', 'blocks of each ResNet'), rows)}\n")
        deadline, growing = time.monotonic() + planned.seconds, Run(planned, arguments)
        with progress("tails and modes", len(planned.items)) as advance:
            for item in planned.items:
                if time.monotonic() > deadline - item.seconds:
                    growing.left_out.append(item)
                else:
                    growing.measure(item)
                    options.keep(growing.result(), arguments)
                advance()
        result = growing.result()
    options.finish(result, arguments)
    return 1 if result.details["problems"] else 0


class Run:
    """A result in the making."""

    def __init__(self, planned: Plan, arguments: argparse.Namespace) -> None:
        self._plan, self._at = planned, planned.conditions
        self._backend = fused_resnet.backend.chosen_for(self._at.device)
        clock = self._at.clock_of(MODES["training"])
        self._ceilings = measure_ceilings(self._at.device, self._at.dtype, clock, quick=arguments.quick)
        self._provenance = provenance(self._at.device, arguments, self._backend)
        self._rows: dict[tuple[str, str], list[Row]] = {}
        self._outcomes: list[tuple[Item, Outcome]] = []
        self._broken: list[str] = []
        self.left_out: list[Item] = []

    def measure(self, item: Item) -> None:
        """Measures an item in the place of what was known of it."""
        try:
            outcome = measure_tail(item.tail.shape, item.mode, item.ways, self._at)
        except Exception as error:  # such as too little memory: other tails may fit
            self._broken.append(f"{item.where}: {said(error)}")
            return
        self._outcomes.append((item, outcome))
        rows = [self._row(item, way, measured) for way, measured in outcome.measured.items()]
        self._rows[item.tail.name, item.mode.name] = rows

    def _row(self, item: Item, way: str, measured: Measured) -> Row:
        work = compulsory(item.tail.shape, item.mode, self._at.dtype.itemsize)
        seconds, counted = measured.times.device.median, measured.counted
        # Plain PyTorch does not move what is counted of the kernels.
        moved = counted if self._backend != "reference" or not WAYS[way].ours else None
        return {
            "tail": item.tail.name,
            "mode": item.mode.name,
            "way": way,
            "kind": item.tail.shape.kind,
            "blocks": item.tail.counts,
            "time": measured.times.device.scaled(1e6),
            "queued in": measured.times.host.scaled(1e6),
            "moved": None if moved is None else moved.bytes / seconds / 1e9,
            "computed": work.operations / seconds / 1e12,
            "roofline": work.seconds(self._ceilings) / seconds,
            "peak memory": measured.peak_bytes,
            "error": measured.error,
            "launches": measured.launches,
            "bytes": None if counted is None else counted.bytes,
            "operations": None if counted is None else counted.operations,
            "needed bytes": work.bytes,
            "needed operations": work.operations,
        }

    def result(self) -> Result:
        """All that is known so far."""
        problems = [*self._wrong(ours=True), *self._broken]
        settings = {
            "device": self._at.device.type,
            "dtype": options.name_of(self._at.dtype),
            "batch": self._plan.items[0].tail.shape.batch,
            "runs": self._at.runs,
            "warm_up": self._at.warm_up,
            "seconds": None if math.isinf(self._plan.seconds) else self._plan.seconds,
            "tolerance": TOLERANCE[self._at.dtype],
            "cache_bytes": self._at.cache_bytes,
            "ways": {name: way.explained for name, way in WAYS.items()},
        }
        rows = [row for rows in self._rows.values() for row in rows]
        details = {
            "ceilings": asdict(self._ceilings),
            "problems": problems,
            "left_out": [f"{item.where}: {TURNS[item.turn][0]}" for item in self.left_out],
        }
        notes = [*problems, *self._limits(), *self._meanings()]
        return Result("tail", self._provenance, settings, COLUMNS, rows, notes, details)

    def _wrong(self, ours: bool) -> list[str]:
        """What ways computed wrongly, or failed to; the package's own, or the others."""
        told: dict[str, None] = {}
        for item, outcome in self._outcomes:
            for way, error in outcome.wrong.items():
                if WAYS[way].ours == ours:
                    where = f"{item.where}, relative error {error:.2g}."
                    told[f"{way} differs from eager, so it was not timed: {where}"] = None
            for way, why in outcome.failed.items():
                if WAYS[way].ours == ours:
                    told[f"{way} failed: {item.where}: {why}"] = None
        return list(told)

    def _limits(self) -> Iterator[str]:
        """What else was not timed, and why."""
        yield from self._wrong(ours=False)
        impossible = {(way, why, item.where) for item, of in self._outcomes for way, why in of.impossible.items()}
        for (way, why), count in sorted(Counter((way, why) for way, why, _ in impossible).items()):
            yield f"{way} is not there for {count} of {len(self._rows)} tails and modes: {why}."
        for turn, (ways, _) in enumerate(TURNS):
            planned = sum(item.turn == turn for item in self._plan.items)
            if left := [item for item in self.left_out if item.turn == turn]:
                some = f"{len(left)} of {planned} tails and modes, from {left[0].where} on"
                yield f"No time was left for {ways} in {some}."

    def _meanings(self) -> Iterator[str]:
        yield self._ceilings.note
        yield (
            "roofline is the time that the ceilings allow for the work that no way can do without, by the time that was"
            " measured; TFLOP/s are of that work, too; GB/s are of the bytes that the way moves."
        )
        if self._at.device.type == "cuda":
            yield "launches are the kernels that PyTorch's profiler saw."
            return
        yield (
            "On a CPU the roofline can be exceeded: what is written may stay in a cache, and a copy writes as much as"
            " it reads, which costs more than reading."
        )
        yield "launches of eager operations are operators that PyTorch dispatches; of fused ones, kernels."
        if self._backend == "reference":
            yield (
                "fused tails were computed by plain PyTorch here, but their bytes and launches are those of the CUDA"
                " kernels, so that they have no GB/s."
            )
