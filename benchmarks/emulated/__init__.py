"""Counts what the kernels do for each tail of the ResNets, against the formulas. Needs no GPU.

The kernels run in the emulator on the CPU: every distinct tail of the ResNets,
the wide and CIFAR's, ResNet-50's also with its last convolution left to cuDNN,
with their channels and few rows, forward and backward, with each strategy and with frozen norms.
Of each direction: the launches, the bytes of activations that are read and
written, phase by phase, and the multiply-adds of the products, beside what
fused_resnet.backends.kernels.launches and fused_resnet.cost.traffic say. y is the tail's output:
bytes in its units are passes over it, for any number of rows. Bytes outside
the formulas are those of weights, vectors and partial sums; few rows have more
of them. Requested bytes are those of all accesses, most of which the L2 cache
answers. Backward computes all gradients. MACs are the tensor cores' multiply-adds
(none in float32, which is not rounded to tf32 here): x^T x makes about half of the
formula's, as it is symmetric, and products of matrices of channels none.

Where a count differs from its formula, the row says so, and the exit status
is 1. The default dtype is a GPU's, bfloat16. Takes about three minutes on two
free cores, most of it for W Cov W^T of the two widest tails.
"""

from __future__ import annotations

import argparse

import torch

from .. import options
from ..emulator import missing
from ..errors import UserError
from ..progress import progress
from ..provenance import available_cores, provenance
from ..result import Result, Row
from .formulas import BATCH, SIZE, Case, cases
from .rows import COLUMNS, count_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options."""
    options.add_arguments(parser, quick="about 5 s")
    parser.add_argument(
        "--jobs", type=options.at_least(1), metavar="N", help="processes that count; default: one a core"
    )


def run(arguments: argparse.Namespace) -> int:
    """Counts; 1 where a count differs from its formula."""
    options.check_files(arguments)
    if arguments.device not in (None, "cpu"):
        raise UserError(f"device is {arguments.device!r}, expected cpu: the emulator runs there")
    dtype = options.dtype_of(arguments.dtype, torch.device("cuda"))  # whose kernels these are
    if missing() is not None:
        raise UserError(
            f"the emulator cannot be used ({missing()}); to build it: FUSED_RESNET_EMULATOR=1 pip install"
            " --no-build-isolation -e ."
        )
    jobs = arguments.jobs or (1 if arguments.quick else available_cores())
    result = _count(cases(arguments.quick), dtype, jobs, arguments)
    options.finish(result, arguments)
    return int(any(row.get("differs") for row in result.rows))


def _count(chosen: list[Case], dtype: torch.dtype, jobs: int, arguments: argparse.Namespace) -> Result:
    """The result, of which the file is written as it grows."""
    settings = {"dtype": options.name_of(dtype), "rows": BATCH * SIZE**2, "jobs": jobs}
    origin = provenance(torch.device("cpu"), arguments, "emulated")
    rows: list[Row] = []
    result = Result("emulated", origin, settings, COLUMNS, rows)
    found: dict[Case, list[Row]] = {}
    with progress("tails in the emulator", len(chosen)) as advance:
        for case, counted in count_all(chosen, dtype, jobs):
            found[case] = counted
            rows[:] = [row for case in chosen for row in found.get(case, [])]
            options.keep(result, arguments)
            advance()
    result.notes.extend(_notes(result))
    return result


def _notes(result: Result) -> list[str]:
    different = sum(1 for row in result.rows if row.get("differs"))
    equal = "No count differs from its formula" if different == 0 else f"{different} rows differ from their formulas"
    narrow = "Multiply-adds of channels that fill no tile of 64 include its padding, and are held against no formula."
    float32 = ["Products of float32 are the CUDA cores', whose multiply-adds are not counted."]
    return [
        f"{equal}: launches, bytes of activations, multiply-adds.",
        "Counted in the emulator, for large and small batches alike; outside the formulas: for"
        f" {result.settings['rows']} rows.",
        narrow,
        *(float32 if result.settings["dtype"] == "float32" else []),
    ]
