"""Whole training steps of ResNets: images a second, peak memory, the largest batch that fits.

Images and labels are random: this is about speed and memory, and nothing is learnt but one batch by heart. All ways of
a network take turns in one process, so that whatever disturbs the machine meets all alike, and none is timed unless
the losses of its first steps are those of the eager network. What fails is left out and noted. On a GPU, host and
device are told apart, too: until a step is queued, replayed as a CUDA graph, and the kernels of a trace.

Peak memory is what PyTorch's allocator had handed out at a step's height: parameters, buffers, optimizer's state, the
batch, gradients, activations and workspaces. On a GPU the largest batch is tried, by doubling and bisecting, each way
in a process of its own; on a CPU it is computed from the peaks of two batches, for --memory-limit.
"""

from __future__ import annotations

import argparse
import time

import torch

from .. import networks, options
from ..errors import UserError
from ..progress import progress
from ..provenance import provenance
from ..result import Result
from . import job
from .collect import COLUMNS, Collected
from .processes import items_of

_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options."""
    options.add_arguments(parser, quick="one tiny network")
    models = (",".join(defaults.models) for defaults in (job.CPU, job.GPU))
    ways, usual = (",".join(names) for names in (networks.WAYS, networks.USUAL))
    for name, parse, what in (
        ("models", networks.names, f"of {networks.EXPECTED}; default: {', on a GPU '.join(models)}"),
        ("ways", options.one_or_more_of(networks.WAYS), f"of {ways}; default: {usual}, on a GPU not of every batch"),
        ("batches", _batches, "default: 8,16, on a GPU 64,128,256; two give the largest"),
        ("size", options.at_least(1), "of images; default: 224, of CIFAR's 32"),
        ("steps", options.at_least(2), "timed of each way; default: 7, on a GPU 30"),
        ("seconds", options.at_least(1), "of the whole run: what is left then is left out"),
    ):
        parser.add_argument(f"--{name}", type=parse, metavar="N" if parse is not networks.names else "NAMES", help=what)
    limit = "GiB of a CPU's largest batch; 16"
    parser.add_argument("--memory-limit", type=options.at_least(1), metavar="N", default=16, help=limit)
    parser.add_argument("--evaluation", action="store_true", help="forward passes in evaluation, not training steps")
    parser.add_argument("--no-largest", action="store_true", help="do not search the largest batch on a GPU")
    options.add_backend(parser)


def _batches(text: str) -> list[int]:
    return [options.at_least(1)(number) for number in text.split(",")]


def run(arguments: argparse.Namespace) -> int:
    """Trains, prints and writes what is asked for; the JSON file is written again after every network and batch."""
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    on_cpu, timed = device.type == "cpu", job.jobs(arguments, device)
    collected = Collected(_empty(arguments, device, timed[0]), on_cpu)
    deadline = time.monotonic() + timed[0].seconds
    searches = [] if on_cpu or arguments.no_largest or arguments.evaluation else job.searches(timed)
    with progress("training", len(timed) + len(searches)) as advance:
        for each in [*timed, *searches]:
            # The processes' own output is warnings for the most part: what fails is noted.
            collected.take(each, items_of(each, deadline, lambda line: None))
            options.keep(collected.result, arguments)
            advance()
    if on_cpu and not arguments.evaluation:
        collected.extrapolate(arguments.memory_limit * _GIB)
    if not collected.result.rows:
        raise UserError(f"nothing was timed: {'; '.join(collected.result.notes)}")
    options.finish(collected.result, arguments)
    return 0


def _empty(arguments: argparse.Namespace, device: torch.device, first: job.Job) -> Result:
    origin = provenance(device, arguments, None if arguments.backend == "auto" else arguments.backend)
    mode = "evaluation" if arguments.evaluation else "training"
    shared = {name: getattr(first, name) for name in ("device", "dtype", "steps", "seconds")}
    return Result(
        "training", origin, {"mode": mode, **shared}, COLUMNS, [], ["Images and labels are random: synthetic data."]
    )
