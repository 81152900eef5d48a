"""Fits the rates of `fused_resnet.cost.cost_model` to times of every tail, and says what would be chosen.

Each launch's time is a sum of amounts times their rates; the rates, none of them negative, are those whose times differ
least from the given ones, relative to these. PyTorch's times are those of a result of ``benchmarks phases``. The
kernels' are those of ``benchmarks model``, for the kernels have changed since they were measured; ``--measured`` takes
the result's own, where it is of the kernels as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import nnls

from fused_resnet.cost import cost_model
from fused_resnet.cost.cost_model import Amounts, BranchProblem, Machine, Rates, TailProblem, Way

from .errors import UserError
from .launches import BACKWARD, FORWARD
from .model import gpu_time
from .phases.columns import CONVOLUTION, DIRECT, EAGER, LIBRARY, MOMENTS, NCHW
from .result import Result, amount, number, read, table
from .tail_shapes import NETWORKS, TailShape

RESULT = Path(__file__).parent / "results" / "phases-h100.json"
MODELLED = RESULT.with_name("model-h100.json")
_WAYS = (EAGER, MOMENTS, LIBRARY, DIRECT)
# For results that do not say it themselves; from NVIDIA's data sheet of the H100 SXM5.
_MACHINES = {"NVIDIA H100 80GB HBM3": Machine(132, 1.98e9, 3.35e12)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", nargs="?", type=Path, default=RESULT, help="JSON of benchmarks phases")
    parser.add_argument("--measured", action="store_true", help="the kernels' times are those of the result")
    parser.add_argument("--out", type=Path, default=cost_model.CALIBRATION, help="file that the rates are written to")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw where which strategy is the fastest")


def run(arguments: argparse.Namespace) -> int:
    """Writes the rates, and prints what would be chosen for each tail."""
    measured = Measurements(read(arguments.result), None if arguments.measured else launches(read(MODELLED)))
    calibration = calibrate(measured, arguments.result.name)
    arguments.out.write_text(json.dumps(calibration, indent=2) + "\n", encoding="utf-8")
    choices = [choice_for(tail, measured, Rates(calibration)) for tail in measured.tails]
    print(table(["tail", "chosen", "ms", "", "eager ms", "best ms"], [choice.row() for choice in choices]))
    kernels = "measured" if arguments.measured else "modelled"
    print(f"forward and backward; the kernels' times are {kernels}, PyTorch's measured")
    print("*: by the rates, where no time of such a combination is given")
    if arguments.plot:
        _draw(arguments, calibration)
    return 0


def _draw(arguments: argparse.Namespace, calibration: Mapping[str, Any]) -> None:
    """Beside the rates of the result's own times."""
    from . import crossings, pictures

    before = calibrate(Measurements(read(arguments.result)), arguments.result.name)
    pictures.save(crossings.draw(Rates(before), Rates(calibration)), arguments.plot)
    print(f"Written: {arguments.plot}")


# Seconds of the kernels' launches, by tail, way and direction.
Launches: TypeAlias = Mapping[tuple[str, str, str], float]


def launches(modelled: Result) -> Launches:
    """From a result of ``benchmarks model``: one launch in place of its phases' own, with barriers between them."""
    gpu = gpu_time.read()
    phases: dict[tuple[str, str, str], list[float]] = {}
    for row in modelled.rows:
        key = str(row["tail"]), str(row["way"]), str(row["phase"]).partition(" ")[0]
        phases.setdefault(key, []).append(amount(row, "now, modelled") * 1e-3)
    return {key: gpu_time.launch_seconds(seconds, gpu) for key, seconds in phases.items()}


class Measurements:
    """The rows of a result of ``benchmarks phases``, by tail and way, in seconds; `kernels` go ahead of its own."""

    def __init__(self, result: Result, kernels: Launches | None = None) -> None:
        if result.benchmark != "phases":
            raise UserError(f"a result of benchmarks {result.benchmark}, expected one of phases")
        self.origin = result.provenance
        self.machine = _machine(result)
        self._batch, self._dtype = int(result.settings["batch"]), str(result.settings["dtype"])
        self._kernels = kernels or {}
        self._rows = {(str(row["tail"]), str(row["way"])): row for row in result.rows}
        self.tails = list(dict.fromkeys(tail for tail, _ in self._rows if not tail.endswith(NCHW)))

    @property
    def is_modelled(self) -> bool:
        """Whether the kernels' times are those of the model."""
        return bool(self._kernels)

    def ways(self, tail: str) -> list[str]:
        """Those that were measured and that there still are."""
        return [way for name, way in self._rows if name == tail and way in _WAYS]

    def seconds(self, tail: str, way: str, column: str) -> float:
        """A column's median."""
        if (tail, way, column) in self._kernels:
            return self._kernels[tail, way, column]
        value = number(self._rows[tail, way][column])
        assert value is not None
        return value * 1e-3

    def both(self, tail: str, way: str) -> float:
        """Forward and backward, with the convolution that a way leaves to PyTorch."""
        columns = [FORWARD, BACKWARD, *(CONVOLUTION.values() if way == LIBRARY else [])]
        return sum(self.seconds(tail, way, column) for column in columns)

    def problem(self, tail: str) -> TailProblem:
        """The tail as the model takes it."""
        network, block = tail.split()
        shape = next(shape for shape in NETWORKS[network] if shape.block == block)
        math = "half" if self._dtype in ("bfloat16", "float16") else "float32"
        rows = self._batch * shape.size**2
        return TailProblem(rows, shape.channels, _branches(shape), 2 if math == "half" else 4, math, backward=True)


def _machine(result: Result) -> Machine:
    recorded = result.details.get("machine")
    if recorded is not None:
        return Machine(**recorded)
    if result.provenance.device not in _MACHINES:
        raise UserError(f"the result does not say what its GPU is like ({result.provenance.device}): measure again")
    return _MACHINES[result.provenance.device]


def _branches(shape: TailShape) -> tuple[BranchProblem, ...]:
    if shape.inner is None:
        main = BranchProblem("direct", shape.channels, 1, "training")
    else:
        main = BranchProblem("projection", shape.inner, 1, "training")
    if shape.before is None:
        return main, BranchProblem("direct", shape.channels, 1, "none")
    if shape.shortcut == "projection":
        return main, BranchProblem("projection", shape.before, shape.stride, "training")
    return main, BranchProblem("zero_pad", shape.before, shape.stride, "none")


def ways_of_row(problem: TailProblem, way: str) -> tuple[Way, ...]:
    """What a row's way is for each branch: "library" leaves the main projection alone to PyTorch."""
    each: dict[str, list[Way]] = {
        LIBRARY: ["library", "moments"],
        DIRECT: [None, None],
        MOMENTS: ["moments"] * 2,
    }
    return tuple(own if b.source == "projection" else None for b, own in zip(problem.branches, each[way], strict=True))


def calibrate(measured: Measurements, name: str) -> dict[str, Any]:
    """The rates that fit, as `fused_resnet.cost.cost_model` reads them."""
    kernels = [(tail, way) for tail in measured.tails for way in measured.ways(tail) if way != EAGER]
    directions: dict[str, Callable[[TailProblem, tuple[Way, ...]], Amounts]]
    directions = {FORWARD: cost_model.kernel_forward, BACKWARD: cost_model.kernel_backward}
    fitted = {}
    for direction, amounts in directions.items():
        observed = []
        for tail, way in kernels:
            problem, seconds = measured.problem(tail), measured.seconds(tail, way, direction)
            observed.append(Observed(amounts(problem, ways_of_row(problem, way)), seconds))
        fitted[f"kernel {direction}"] = fit(observed)
        fitted[f"plain {direction}"] = fit(list(_plain(measured, direction)))
    return {
        "measured": {"file": name, "device": measured.origin.device, "commit": measured.origin.commit},
        "kernels": "modelled" if measured.is_modelled else "measured",
        "machine": asdict(measured.machine),
        "seconds": fitted,
    }


def _plain(measured: Measurements, direction: str) -> Sequence[Observed]:
    backward, observed = direction == BACKWARD, []
    for tail in measured.tails:
        problem = measured.problem(tail)
        observed.append(Observed(cost_model.plain(problem, backward), measured.seconds(tail, EAGER, direction)))
        if LIBRARY in measured.ways(tail):
            alone = cost_model.convolution(problem, problem.branches[0], backward)
            observed.append(Observed(alone, measured.seconds(tail, LIBRARY, CONVOLUTION[direction])))
    return observed


@dataclass(frozen=True)
class Observed:
    amounts: Amounts
    seconds: float


def fit(observed: Sequence[Observed]) -> Mapping[str, float]:
    """Non-negative least squares of relative errors."""
    names = list(dict.fromkeys(name for one in observed for name in one.amounts))
    matrix = np.array([[one.amounts.get(name, 0.0) / one.seconds for name in names] for one in observed])
    scale = matrix.max(axis=0)
    rates = nnls(matrix / scale, np.ones(len(observed)))[0] / scale
    return {name: float(f"{rate:.4g}") for name, rate in zip(names, rates, strict=True)}


@dataclass(frozen=True)
class Choice:
    """What is chosen for a tail, and how long it takes, forward and backward, in seconds.

    Attributes:
        ways: a way a branch; None: PyTorch's own operations.
        given: whether the time of this very combination is; it is that of the rates otherwise.
        best: the shortest time that is given for the tail.
    """

    tail: str
    ways: tuple[Way, ...] | None
    seconds: float
    given: bool
    eager: float
    best: float

    def row(self) -> list[str]:
        """For people."""
        ways = "PyTorch" if self.ways is None else " + ".join(way or "as it is" for way in self.ways)
        times = [f"{seconds * 1e3:.2f}" for seconds in (self.seconds, self.eager, self.best)]
        return [self.tail, ways, times[0], "" if self.given else "*", *times[1:]]


def choice_for(tail: str, measured: Measurements, rates: Rates) -> Choice:
    """What would be chosen on the GPU of the rates."""
    problem = measured.problem(tail)
    ways = cost_model.fastest(problem, rates, plain_too=True)
    known = {ways_of_row(problem, way): measured.both(tail, way) for way in measured.ways(tail) if way != EAGER}
    eager = measured.both(tail, EAGER)
    best = min(eager, *known.values())
    if ways is None:
        return Choice(tail, ways, eager, True, eager, best)
    seconds = known.get(ways, cost_model.seconds(problem, ways, rates))
    return Choice(tail, ways, seconds, ways in known, eager, best)
