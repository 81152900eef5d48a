"""Measures what is planned, and keeps the result as it grows."""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace

import fused_resnet

from .. import options
from ..modes import MODES
from ..progress import progress
from ..provenance import provenance
from ..result import Result, Row
from .measure import TOLERANCE, Outcome, measure_tail, said
from .plan import Item, Plan
from .rows import COLUMNS, name_of, row_of
from .ways import TURNS, WAYS
from .work import measure_ceilings


class Run:
    """A result in the making."""

    def __init__(self, plan: Plan, arguments: argparse.Namespace) -> None:
        self._plan, self._arguments = plan, arguments
        conditions = plan.conditions
        self._device, self._dtype = conditions.device, conditions.dtype
        self._backend = fused_resnet.backend.chosen_for(self._device)
        clock = conditions.clock_of(next(iter(MODES.values())))
        self._ceilings = measure_ceilings(self._device, self._dtype, clock, quick=arguments.quick)
        self._provenance = replace(provenance(self._device, arguments), backend=self._backend)
        self._rows: dict[tuple[str, str], list[Row]] = {}
        self._outcomes: list[tuple[Item, Outcome]] = []
        self._left_out: list[Item] = []
        self._broken: list[str] = []

    def measure(self, item: Item) -> None:
        """Measures an item in the place of what was known of it."""
        try:
            outcome = measure_tail(item.tail.shape, item.mode, item.ways, self._plan.conditions)
        except Exception as error:  # such as too little memory: other tails may fit
            self._broken.append(f"{_where(item)}: {said(error)}")
            return
        self._outcomes.append((item, outcome))
        self._rows[name_of(item.tail), item.mode.name] = [
            row_of(
                item.tail,
                item.mode,
                way,
                measured,
                self._ceilings,
                self._dtype.itemsize,
                moves=not WAYS[way].ours or self._backend != "reference",
            )
            for way, measured in outcome.measured.items()
        ]

    def leave_out(self, item: Item) -> None:
        """Notes that there was no time."""
        self._left_out.append(item)

    def result(self) -> Result:
        """All that is known so far."""
        conditions, items = self._plan.conditions, self._plan.items
        return Result(
            benchmark="tail",
            provenance=self._provenance,
            settings={
                "device": self._device.type,
                "dtype": str(self._dtype).removeprefix("torch."),
                "batch": items[0].tail.shape.batch,
                "runs": conditions.runs,
                "warm_up": conditions.warm_up,
                "seconds": None if math.isinf(self._plan.seconds) else self._plan.seconds,
                "tolerance": TOLERANCE[self._dtype],
                "cache_bytes": conditions.cache_bytes,
                "ways": {name: way.explained for name, way in WAYS.items()},
            },
            columns=COLUMNS,
            rows=[row for rows in self._rows.values() for row in rows],
            notes=[*self._problems(), *self._limits(), *self._meanings()],
            details={
                "ceilings": asdict(self._ceilings),
                "problems": self._problems(),
                "left_out": [f"{_where(item)}: {TURNS[item.turn][0]}" for item in self._left_out],
            },
        )

    def _problems(self) -> list[str]:
        """What is wrong with ways of the package's own, and tails that could not be measured at all."""
        return [*self._wrong(ours=True), *self._broken]

    def _wrong(self, ours: bool) -> list[str]:
        told: dict[str, None] = {}
        for item, outcome in self._outcomes:
            for way, error in outcome.wrong.items():
                if WAYS[way].ours == ours:
                    where = f"{_where(item)}, relative error {error:.2g}."
                    told[f"{way} differs from eager, so it was not timed: {where}"] = None
            for way, why in outcome.failed.items():
                if WAYS[way].ours == ours:
                    told[f"{way} failed: {_where(item)}: {why}"] = None
        return list(told)

    def _limits(self) -> Iterator[str]:
        """What else was not timed, and why."""
        yield from self._wrong(ours=False)
        impossible = {(way, why, _where(item)) for item, of in self._outcomes for way, why in of.impossible.items()}
        for (way, why), count in sorted(Counter((way, why) for way, why, _ in impossible).items()):
            yield f"{way} is not there for {count} of {len(self._rows)} tails and modes: {why}."
        for turn, (ways, _) in enumerate(TURNS):
            planned = sum(item.turn == turn for item in self._plan.items)
            if left := [item for item in self._left_out if item.turn == turn]:
                some = f"{len(left)} of {planned} tails and modes, from {_where(left[0])} on"
                yield f"No time was left for {ways} in {some}."

    def _meanings(self) -> list[str]:
        notes = [
            f"ceilings: {self._ceilings.bytes_per_s / 1e9:.3g} GB/s of a large copy,"
            f" {self._ceilings.operations_per_s / 1e12:.3g} TFLOP/s of a large product of matrices, both of this run.",
            "roofline is the time that the ceilings allow for the work that no way can do without, by the time that was"
            " measured; TFLOP/s are of that work, too; GB/s are of the bytes that the way moves.",
        ]
        if self._device.type == "cuda":
            return [*notes, "launches are the kernels that PyTorch's profiler saw."]
        notes.append(
            "On a CPU the roofline can be exceeded: what is written may stay in a cache, and a copy writes as much as"
            " it reads, which costs more than reading."
        )
        notes.append("launches of eager operations are operators that PyTorch dispatches; of fused ones, kernels.")
        if self._backend == "reference":
            notes.append(
                "fused tails were computed by plain PyTorch here, but their bytes and launches are those of the CUDA"
                " kernels, so that they have no GB/s."
            )
        return notes


def run_plan(plan: Plan, arguments: argparse.Namespace) -> Result:
    """Measures for as long as there is time; the JSON file, if one is asked for, is there after every item."""
    deadline = time.monotonic() + plan.seconds
    run = Run(plan, arguments)
    with progress("tails and modes", len(plan.items)) as advance:
        for item in plan.items:
            if time.monotonic() > deadline - item.seconds:
                run.leave_out(item)
            else:
                run.measure(item)
                options.keep(run.result(), arguments)
            advance()
    return run.result()


def _where(item: Item) -> str:
    return f"{name_of(item.tail)} {item.mode.name}"
