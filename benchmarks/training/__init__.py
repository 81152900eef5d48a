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
from collections.abc import Callable
from dataclasses import replace

import torch

from .. import network_ways, networks, options
from ..errors import UserError
from ..progress import progress
from ..provenance import provenance
from ..result import Result
from . import plan
from .collect import COLUMNS, Collected
from .job import Job
from .processes import items_of

_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options."""
    options.add_arguments(parser, quick="one tiny network")
    parser.add_argument(
        "--models",
        type=networks.names,
        metavar="NAMES",
        help=f"separated by commas: {networks.EXPECTED};"
        f" default: {','.join(plan.CPU.models)}, on a GPU {','.join(plan.GPU.models)}",
    )
    parser.add_argument(
        "--ways",
        type=options.one_or_more_of(network_ways.WAYS),
        metavar="NAMES",
        help=f"some of {','.join(network_ways.WAYS)}; default: {','.join(network_ways.USUAL)};"
        " on a GPU some batches without compilers",
    )
    parser.add_argument(
        "--batches", type=_batches, metavar="N,N", help="default: 8,16, on a GPU 64,128,256; two give the largest"
    )
    parser.add_argument("--size", type=options.at_least(1), metavar="N", help="of images; default: 224, of CIFAR's 32")
    parser.add_argument("--steps", type=options.at_least(2), metavar="N", help="timed of each way; default: 7, GPU 30")
    parser.add_argument(
        "--seconds", type=options.at_least(1), metavar="S", help="of the whole run: what is left then is left out"
    )
    parser.add_argument(
        "--memory-limit", type=options.at_least(1), metavar="GIB", default=16, help="of a CPU's largest batch; 16"
    )
    parser.add_argument("--evaluation", action="store_true", help="forward passes in evaluation, not training steps")
    parser.add_argument("--no-largest", action="store_true", help="do not search the largest batch on a GPU")
    options.add_backend(parser)


def run(arguments: argparse.Namespace) -> int:
    """Trains, prints and writes what is asked for; the JSON file is written again after every network and batch."""
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    jobs = plan.jobs(arguments, device)
    collected = Collected(_empty(arguments, device, jobs), device.type)
    deadline = time.monotonic() + plan.seconds(arguments, device)
    searches = [] if device.type == "cpu" or arguments.no_largest or arguments.evaluation else _searches(jobs)
    with progress("training", len(jobs) + len(searches)) as advance:
        for job in [*jobs, *searches]:
            collected.take(job, items_of(job, deadline, _print_nothing))
            options.keep(collected.result, arguments)
            advance()
    if device.type == "cpu" and not arguments.evaluation:
        collected.extrapolate(arguments.memory_limit * _GIB)
    if not collected.result.rows:
        raise UserError(f"nothing was timed: {'; '.join(collected.result.notes)}")
    options.finish(collected.result, arguments)
    return 0


def _empty(arguments: argparse.Namespace, device: torch.device, jobs: list[Job]) -> Result:
    origin = provenance(device, arguments)
    if arguments.backend != "auto":
        origin = replace(origin, backend=arguments.backend)
    settings = {
        "mode": "evaluation" if arguments.evaluation else "training",
        "device": device.type,
        "dtype": jobs[0].dtype,
        "steps": jobs[0].steps,
        "seconds": jobs[0].seconds,
    }
    return Result("training", origin, settings, COLUMNS, [], ["Images and labels are random: synthetic data."])


def _searches(jobs: list[Job]) -> list[Job]:
    """The largest batch of each network and way, from the largest that is timed, what is not compiled first."""
    last = {job.model: job for job in jobs}
    ways = {model: {way for job in jobs if job.model == model for way in job.ways} for model in last}
    return [
        replace(job, ways=[way], search_from=job.batch)
        for way in network_ways.WAYS
        for model, job in last.items()
        if way in ways[model]
    ]


def _batches(text: str) -> list[int]:
    one: Callable[[str], int] = options.at_least(1)
    return [one(number) for number in text.split(",")]


def _print_nothing(line: str) -> None:
    """The processes' own output, warnings for the most part: what fails is noted."""
