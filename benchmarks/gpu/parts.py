"""The parts of ``make gpu``: each runs commands that users have, within its time, and notes how they end."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import networks
from ..process import Ended, run
from ..result import Result, number, read, text
from . import counters, sanitize
from .record import Record
from .sanitize import REHEARSED_CAPABILITY
from .small_cases import CASE

PYTHON = (sys.executable, "-m")
TESTS, REHEARSED_TESTS = "tests/kernels/test_cuda.py", "tests/operation/test_strategy.py"
# A bar is for a terminal. A tail that the kernels do not compute is an error.
_ON_GPU = {"TQDM_DISABLE": "1", "FUSED_RESNET_REQUIRE": "cuda"}
# Tensors are small there, and threads are for those that are not.
_REHEARSED = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
_OPTIONS = ["--device", "cuda", "--backend", "cuda", "--dtype", "bfloat16"]
_REHEARSED_OPTIONS = ["--device", "cpu", "--backend", "emulated", "--dtype", "bfloat16", "--quick"]
# Between two tails, or two steps, a benchmark stops itself.
_TO_END_S = 6.0
# A whole network takes longer to compile than a tail.
_COMPILED_TRAININGS_SHARE = 0.6


@dataclass(frozen=True)
class Part:
    """`run(record, rehearse)` ends within the record's limit."""

    limit_s: float
    run: Callable[[Record, bool], None]


def build(record: Record, rehearse: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rehearsed = {"TORCH_CUDA_ARCH_LIST": REHEARSED_CAPABILITY, "FUSED_RESNET_CACHE": folder}
        ended = run_command(record, "fused_resnet", ["build"], rehearsed if rehearse else {})
    record.headline = f"compiled in {ended.seconds:.0f} s"


def check(record: Record, rehearse: bool) -> None:
    """The doctor, and small cases of every kernel against float64."""
    run_command(record, "fused_resnet", ["doctor"])
    run_command(record, "benchmarks.gpu.small_cases", ["--rehearse"] if rehearse else [])
    record.headline = f"{sum(line.startswith(CASE) for line in record.logged)} small cases"


def test(record: Record, rehearse: bool) -> None:
    # -v: what is under way when the time is up can be seen.
    options = ["-v", "--all", "-rfE", "-p", "no:cacheprovider", REHEARSED_TESTS if rehearse else TESTS]
    run_command(record, "pytest", options)
    lines = [line for line in record.logged if re.match(r"=+ .* in [\d.]+s", line)]
    record.headline = ", ".join(re.findall(r"\d+ (?:passed|failed|errors?|skipped)", " ".join(lines)))
    if "passed" not in record.headline:
        record.problem("no test passed")


def time_phases(record: Record, rehearse: bool) -> None:
    result = run_benchmark(record, "phases", [], rehearse)
    if result is not None:
        record.headline = f"{len({row['tail'] for row in result.rows})} tails"


def train(record: Record, rehearse: bool) -> None:
    """Further ways, which take longer, of the largest batch alone, and last."""
    for batch, ways in (("128", "eager,fused"), ("256", "eager,fused,norms,recompute")):
        models = [] if rehearse else ["--models", "resnet50"]
        options = [*models, "--batches", "4" if rehearse else batch, "--ways", ways]
        _run_networks(record, options, f"training-{batch}.json", rehearse)


def evaluate(record: Record, rehearse: bool) -> None:
    models = [] if rehearse else ["--models", "resnet50,resnet18"]
    options = [*models, "--batches", "1,4" if rehearse else "1,128", "--ways", "eager,fused", "--evaluation"]
    _run_networks(record, options, "evaluation.json", rehearse)


def compile_peers(record: Record, rehearse: bool) -> None:
    """By torch.compile: a training step, then tails for as long as there is time."""
    options = ["--batches", "4"] if rehearse else ["--models", "resnet50", "--batches", "128", "--steps", "20"]
    limit_s = record.left_s * _COMPILED_TRAININGS_SHARE
    _run_networks(record, [*options, "--ways", "eager,compile"], "compiled-training.json", rehearse, limit_s)
    network = "resnet18" if rehearse else "resnet50"
    options = ["--networks", network, "--modes", "training+backward", "--peers", "eager,compile"]
    tails = run_benchmark(record, "tail", options, rehearse, to="compiled-tails.json")
    if tails is not None:
        record.headline += f"; {sum(row['way'] == 'compile' for row in tails.rows)} tails by torch.compile"


PARTS = {
    "build": Part(60, build),
    "checks": Part(30, check),
    "tests": Part(30, test),
    "phases": Part(40, time_phases),
    "training": Part(70, train),
    "evaluation": Part(30, evaluate),
    "compiled": Part(130, compile_peers),
    "sanitize": Part(60, sanitize.run_part),
    "counters": Part(45, counters.run_part),
}


def run_command(
    record: Record, module: str, options: Sequence[str], environment: dict[str, str] | None = None
) -> Ended:
    """Runs a module to its end, or to that of the part's time; how it ended is a problem of the part."""
    command = [*PYTHON, module, *options]
    record.log(" ".join(command[1:]))
    ended = run(command, limit_s=record.left_s, on_line=record.take, environment=environment)
    if ended.problem is not None:
        record.problem(f"{module}: {ended.problem}")
    return ended


def run_benchmark(
    record: Record, name: str, options: Sequence[str], rehearse: bool, *, to: str = "", limit_s: float | None = None
) -> Result | None:
    """The result, None where nothing was written. Its file is `to` in the record's folder, by default NAME.json.

    A process that was stopped at its limit and has left a result is no problem: whatever was measured by then counts.
    """
    file = Path(record.folder, to or f"{name}.json")
    file.unlink(missing_ok=True)
    limit_s = record.left_s if limit_s is None else limit_s
    on_device = _REHEARSED_OPTIONS if rehearse else _OPTIONS
    seconds = ["--seconds", str(max(1, int(limit_s - _TO_END_S)))]
    command = [*PYTHON, "benchmarks", name, *on_device, *options, *seconds, "--json", str(file)]
    record.log(" ".join(command[1:]))
    ended = run(command, limit_s=limit_s, on_line=record.log, environment=_REHEARSED if rehearse else _ON_GPU)
    result = read(file) if file.exists() else None
    if rehearse:
        record.note(f"{name}: a rehearsal on the CPU: no time here means anything")
    if result is None or not result.rows:
        record.problem(f"{name}: nothing was timed; {ended.problem}")
        return None
    if ended.timed_out:
        record.note(f"{name}: {ended.problem}: what was measured until then is kept")
    elif ended.problem is not None:
        record.problem(f"{name}: {ended.problem}")
    record.add(file=file.name, rows=len(result.rows))
    for problem in result.details.get("problems", []):
        record.problem(problem)
    for note in result.notes:
        record.note(note)
    return result


def _run_networks(
    record: Record, options: Sequence[str], to: str, rehearse: bool, limit_s: float | None = None
) -> None:
    """What a compiler or too little memory prevents is no problem of this project."""
    result = run_benchmark(record, "training", [*options, "--no-largest"], rehearse, to=to, limit_s=limit_s)
    if result is None:
        return
    for failure in result.details["failures"]:
        if failure["kind"] in ("error", "wrong") and not networks.compiles(failure["way"]):
            record.problem(f"{failure['where']}: {failure['what']}")
    steps = [f"{row['model']} {row['batch']} {row['way']} {text(number(row['step']))} ms" for row in result.rows]
    record.headline = ", ".join(filter(None, [record.headline, *steps]))
