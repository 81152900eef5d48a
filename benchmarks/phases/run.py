"""Measures tail after tail, and keeps the result as it grows."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, replace
from typing import Any

import torch

from fused_resnet.cost.choice import machine_of

from .. import options
from ..accuracy import TOLERANCE, largest_error
from ..clocks import clock_of, measure
from ..memory_formats import in_format
from ..progress import progress
from ..provenance import provenance
from ..result import Result, Row
from ..tail.measure import said
from ..tail.work import Ceilings, measure_ceilings
from ..tail_shapes import NETWORKS, DistinctTail, TailShape, distinct, small_of_each_kind
from ..tails import Tail, incoming_gradient
from .calls import Inputs, Way, eager_way, kernel_way
from .columns import COLUMNS, DIRECT, EAGER, LIBRARY, MOMENTS, NCHW, rates

# Longer than Python takes to queue any of the calls, eager backward included.
_BUSY_MS = 2.0


class Run:
    """A result in the making."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype, backend: str) -> None:
        self._arguments, self._device, self._dtype, self._backend = arguments, device, dtype, backend
        self._clock = clock_of(device, _BUSY_MS)
        self._runs = 2 if arguments.quick else arguments.runs
        self._ceilings: Ceilings = measure_ceilings(device, dtype, self._clock, quick=arguments.quick)
        self._origin = provenance(device, arguments, backend)
        self._rows: list[Row] = []
        self._problems: list[str] = []
        self.left_out: list[str] = []

    def measure(self, tail: DistinctTail, suffix: str = "") -> None:
        """Adds the rows of a tail; with the suffix `NCHW`, of one whose incoming gradient has its channels apart."""
        shape = tail.shape
        torch.manual_seed(0)
        made = in_format(Tail(shape, self._dtype).to(self._device))
        inputs = self._inputs(made)
        if suffix == NCHW:
            inputs = replace(inputs, dy=inputs.dy.contiguous())
        eager = eager_way(made, inputs)
        for name in ways_of(shape):
            try:
                way = eager if name == EAGER else kernel_way(name, made, inputs, self._backend)
                row = self._row(tail, suffix, name, way, eager)
            except Exception as error:  # such as too little memory: other ways may fit
                self._problems.append(f"{tail.name}{suffix}, {name}: {said(error)}")
            else:
                self._rows += [] if row is None else [row]

    def result(self) -> Result:
        """All that is known so far."""
        limits = [f"No time was left for {', '.join(self.left_out)}."] if self.left_out else []
        settings = {
            "device": self._device.type,
            "dtype": options.name_of(self._dtype),
            "batch": self._arguments.batch,
            "runs": self._runs,
            "tolerance": TOLERANCE[self._dtype],
        }
        ceilings = asdict(self._ceilings)
        details: dict[str, Any] = {"ceilings": ceilings, "problems": self._problems, "left_out": self.left_out}
        if self._device.type == "cuda":
            details["machine"] = asdict(machine_of(torch.cuda.current_device()))
        notes = [*self._problems, *limits, *self._meanings()]
        return Result("phases", self._origin, settings, COLUMNS, self._rows, notes, details)

    def _inputs(self, tail: Tail) -> Inputs:
        x, before = tail.inputs(self._device, self._dtype)
        with torch.no_grad():
            return Inputs(x, before, incoming_gradient(tail.sum(x, before)))

    def _row(self, tail: DistinctTail, suffix: str, name: str, way: Way, eager: Way) -> Row | None:
        error = largest_error(way.results, eager.results)
        if not error <= TOLERANCE[self._dtype]:
            where = f"{tail.name}{suffix}, relative error {error:.2g}."
            self._problems.append(f"{name} differs from eager, so it was not timed: {where}")
            return None
        times = measure(way.calls, self._clock, runs=self._runs, warm_up=1)
        row: Row = {
            "tail": f"{tail.name}{suffix}",
            "way": name,
            "kind": tail.shape.kind,
            "blocks": tail.counts,
            **{column: of.device.scaled(1e3) for column, of in times.items()},
            **{f"{direction} bytes": nbytes for direction, nbytes in way.bytes.items()},
            "error": error,
        }
        # On a CPU the emulator computes, whose time says nothing about memory.
        return row | (rates(row, self._ceilings.bytes_per_s) if self._device.type == "cuda" else {})

    def _meanings(self) -> list[str]:
        notes = [
            self._ceilings.note,
            "forward and backward are the single launches of a training step; their phases were launched alone.",
            "library leaves the main projection to PyTorch's convolution, whose time comes on top and is told apart.",
            "GB/s are of the bytes that the launch has to move, each once.",
        ]
        emulated = "The kernels ran in the emulator, on a CPU: no time here says anything about a GPU."
        return [*notes, emulated] if self._backend == "emulated" else notes


def ways_of(shape: TailShape) -> list[str]:
    """Every way of a tail; what makes no difference has no row."""
    if not shape.projections:
        return [EAGER, DIRECT]
    return [EAGER, MOMENTS, *([LIBRARY] if shape.inner is not None else [])]


def run_tails(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype, backend: str) -> Result:
    """Measures for as long as there is time; the JSON file, if one is asked for, is there after every tail."""
    deadline = time.monotonic() + (arguments.seconds or math.inf)
    tails = distinct(arguments.networks, arguments.batch)
    if arguments.quick:
        tails = small_of_each_kind(tails)
    run = Run(arguments, device, dtype, backend)
    # The average pool behind a network's last block gives its gradient in NCHW.
    each = [(tail, "") for tail in tails] + [(tail, NCHW) for tail in tails if _is_last(tail.shape)]
    with progress("tails", len(each)) as advance:
        for tail, suffix in each:
            if time.monotonic() > deadline:
                run.left_out.append(tail.name)
            else:
                run.measure(tail, suffix)
                options.keep(run.result(), arguments)
            advance()
    return run.result()


def _is_last(shape: TailShape) -> bool:
    last = NETWORKS[shape.network][-1]
    return shape.block == last.block
