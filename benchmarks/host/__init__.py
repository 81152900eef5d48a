"""Host time: microseconds that a call takes to queue, fused against unfused, forward and backward.

A GPU waits for the host wherever its kernels are shorter than this. Each kind of tail of ResNet-50 and -18 is measured,
as modules and as one `residual_tail`, and each kind of block, this package's and torchvision's, as it is and after
`fuse`, in float32 and under autocast. On a GPU, launches are included. On a CPU the kernels' binding runs with its
launches left out; PyTorch's own operations compute there, on tensors so small that it hardly counts.

A round takes eight calls on either side, in turn: forward of all, then one backward through all.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

import torch

import fused_resnet
from fused_resnet.backend import Backend

from .. import emulator, options
from ..errors import UserError
from ..progress import progress
from ..provenance import provenance
from ..result import Result
from .cases import cases
from .measure import COLUMNS, NETWORK, row_of, summed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    options.add_file_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="a smoke run: its numbers mean nothing")
    parser.add_argument("--rounds", type=options.at_least(2), default=200, help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Measures, prints and writes what is asked for."""
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    backend: Backend = "cuda" if device.type == "cuda" else "emulated"
    origin = provenance(device, arguments, backend)
    result = Result("host", origin, {"device": device.type, "backend": backend}, COLUMNS, [])
    with ExitStack() as stack:
        try:
            stack.enter_context(fused_resnet.use_backend(backend))
        except RuntimeError as error:
            raise UserError(f"there are no kernels to call: {error}") from error
        if backend == "emulated":
            stack.enter_context(emulator.launches_left_out())
            # To start others takes longer than small tensors do.
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
            result.notes.append("The kernels' launches are left out: what is timed is everything around them.")
        each, missing = cases(device)
        result.notes.extend(missing)
        with progress("host time", len(each)) as advance:
            for case in each:
                result.rows.append(row_of(case, device, 2 if arguments.quick else arguments.rounds))
                advance()
    result.rows.extend(list(summed(result.rows)))
    result.notes.append(f"{NETWORK}: the sum over its 16 blocks, of which 4 change the shape.")
    options.finish(result, arguments)
    return 0
