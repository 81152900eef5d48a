"""Times a tail against its sizes, and training against the number of processes.

One tail (a projection with the identity, or with a projection in the shortcut)
is timed forward and backward, fused and with PyTorch's operations in
interleaved rounds, while one size varies: rows M (by the image), input
channels K, output channels C, batch. Values are compared first; where they
differ, the point is left out and the exit status is 1. The strategy is the one
that is chosen at each point.

Then torchrun starts 1, 2, 4 and so on processes, one a GPU (nccl) or one a
core (gloo, one thread each), which train a network in
DistributedDataParallel, each on a batch of its own: weak scaling. On GPUs all
norms are synchronised, in both networks. On a CPU, where PyTorch's own refuse to
run so, none are, and once more those within fused tails.

Takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse

import torch

from .. import options
from ..errors import UserError
from ..progress import progress
from ..provenance import provenance
from ..result import Column, Result, Row
from . import ranks, sizes

COLUMNS = [
    Column("sweep", "key"),
    Column("value", "key"),
    *(Column(name, "counted", shown=False) for name in "MKC"),
    Column("strategy", "counted"),
    *(Column(side, "measured", "ms", better="lower") for side in sizes.SIDES),
    Column("fused / eager", "measured", better="lower"),
    *(Column(f"{side} rate", "measured", "1/s", better="higher") for side in ranks.SIDES),
    *(Column(f"{side} efficiency", "measured", better="higher", shown=False) for side in ranks.SIDES),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options."""
    options.add_arguments(parser, quick="about 20 s")
    parser.add_argument(
        "--shortcut", choices=("identity", "projection"), default="identity", help="the first, by default"
    )
    parser.add_argument("--compile", action="store_true", help="time torch.compile, too")
    numbers = "numbers of processes; one is always among them; 0: none; default: 1, 2, 4 up to all GPUs or cores"
    parser.add_argument("--ranks", type=_numbers, metavar="N,...", help=numbers)


def _numbers(text: str) -> list[int]:
    """Numbers of processes, in order."""
    return [] if text == "0" else sorted({1, *(options.at_least(1)(part) for part in text.split(","))})


def run(arguments: argparse.Namespace) -> int:
    """Times; 1 where a side's values differ, or processes fail."""
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    dtype = options.dtype_of(arguments.dtype, device)
    counts = ranks.counts(device)[: 1 if arguments.quick else None] if arguments.ranks is None else arguments.ranks
    if device.type == "cuda" and max(counts, default=0) > torch.cuda.device_count():
        raise UserError(f"--ranks has {max(counts)}, but PyTorch sees {torch.cuda.device_count()} GPUs")
    plan, trained = sizes.plan_of(device, arguments.quick), ranks.training_of(device, arguments.quick)
    base = plan.base
    settings = {
        "dtype": options.name_of(dtype),
        "shortcut": arguments.shortcut,
        "base": {"M": base.rows, "K": base.inner, "C": base.channels, "batch": base.batch},
        "network": trained.model,
        "batch a process": trained.batch,
    }
    result = Result("scaling", provenance(device, arguments), settings, COLUMNS, [])
    right, points = True, list(plan.points(arguments.shortcut))
    conditions = plan.conditions(device, dtype)
    with progress("sizes of a tail", len(points)) as advance:
        for point in points:
            row, problem = sizes.timed(point, conditions, arguments.compile)
            result.rows.extend([row] if row else [])
            result.notes.extend([f"{point.sweep} = {point.value}: {problem}."] if problem else [])
            right &= row is not None
            options.keep(result, arguments)
            advance()
    right &= _scale(result, counts, trained, device, arguments)
    options.finish(result, arguments)
    return 0 if right else 1


def _scale(
    result: Result, counts: list[int], trained: ranks.Training, device: torch.device, arguments: argparse.Namespace
) -> bool:
    """Whether all processes ended well."""
    if counts and device.type == "cpu":
        result.notes.append(
            'In the processes, the norms within the tails of "fused, synchronised" share their statistics; PyTorch has'
            " no synchronised norm for CPUs to compare with."
        )
    alone: Row | None = None
    with progress("processes", len(counts)) as advance:
        for count in counts:
            try:
                seconds = ranks.launch(count, device, result.settings["dtype"], arguments.quick)
            except ranks.TorchrunError as error:
                result.notes.append(f"{count} processes failed: {error}")
                return False
            result.rows.append(row := ranks.merged(seconds, trained, alone))
            alone = alone or row
            options.keep(result, arguments)
            advance()
    return True
