"""Times every phase of the kernels by itself: each distinct tail of ResNet-50 and -18, each way of computing it.

A tail's training step is one launch forward (moments, finish, apply) and one backward (reduce, finish, apply). Here
each phase is launched alone as well, on inputs that no cache holds. So the time of the whole is told apart, and held
against the bytes that it has to move and against the rate of a large copy, which is measured in the same run.

==============  ==================================================================================================
eager           PyTorch's operations, one by one
moments         statistics of a projection from its input's covariance; the pre-norm tensor is never written
library         the main branch's projection left to PyTorch's convolution, whose time is told beside the tail's
direct          a tail without projections
==============  ==================================================================================================

What a way computes is compared with eager operations before it is timed; a wrong one is told, and not timed.
"""

from __future__ import annotations

import argparse

import fused_resnet
from fused_resnet.backend import Backend

from .. import options
from ..errors import UserError
from ..tail_shapes import BATCH, NETWORKS
from .run import run_tails

_NETWORKS = ("resnet50", "resnet18")
_BACKENDS: tuple[Backend, ...] = ("cuda", "emulated")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    options.add_arguments(parser, quick="small tails")
    parser.add_argument(
        "--networks",
        type=options.one_or_more_of(list(NETWORKS)),
        default=list(_NETWORKS),
        help=f"names, separated by commas, of {', '.join(NETWORKS)}; default: {','.join(_NETWORKS)}",
    )
    parser.add_argument("--batch", type=options.at_least(1), default=BATCH, help=f"images; default: {BATCH}")
    parser.add_argument("--runs", type=options.at_least(2), default=7, help="timed launches of each phase; default: 7")
    parser.add_argument("--seconds", type=options.at_least(1), help="begin no tail after that long")
    parser.add_argument(
        "--backend", choices=_BACKENDS, help="whose kernels; default: cuda on a GPU, and the emulator's elsewhere"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measures and returns 0 where every way computed what it should, 1 otherwise."""
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    if device.type == "cpu" and not arguments.quick:
        raise UserError("phases of real tails need a GPU: --quick runs small ones in the emulator, where it is built")
    name: Backend = arguments.backend or ("cuda" if device.type == "cuda" else "emulated")
    try:
        backend = fused_resnet.use_backend(name)
    except RuntimeError as error:
        raise UserError(f"there are no kernels to time: {error}") from error
    with backend:
        device = options.prepared(device)
        result = run_tails(arguments, device, options.dtype_of(arguments.dtype, device), name)
    options.finish(result, arguments)
    return 1 if result.details["problems"] else 0
