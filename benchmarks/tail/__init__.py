"""Times every tail of the ResNets against PyTorch's other ways, and shows them on a roofline.

Every distinct tail of ResNet-18 to -152, the wide nets and CIFAR's, forward and with backward, in training and in
evaluation: by the fused operation, by PyTorch's operations (channels_last and contiguous), by torch.compile and by
cuDNN's own fused operator.

All ways get the same values and are compared before any is timed; a wrong one is told, and not timed. The ways of a
tail are timed in turn, on inputs that no cache still holds. The ceilings of the roofline, a large copy and a large
product of matrices, are measured in the same run.

First all tails are timed without compilers, then again with torch.compile, then with its max-autotune, for as long as
there is time.
"""

from __future__ import annotations

import argparse

import fused_resnet

from .. import options
from ..errors import UserError
from . import plan
from .rows import tails_table
from .run import run_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    options.add_arguments(parser, quick="one small tail of each kind")
    plan.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measures and returns 0 where every fused tail computed what it should, 1 otherwise."""
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    dtype = options.dtype_of(arguments.dtype, device)
    try:
        backend = fused_resnet.use_backend(arguments.backend)
    except RuntimeError as error:
        raise UserError(f"--backend is {arguments.backend!r}: {error}") from error
    with backend:
        device = options.prepared(device)
        planned = plan.plan_of(arguments, device, dtype)
        print(f"{tails_table(planned.tails)}\n")
        result = run_plan(planned, arguments)
    options.finish(result, arguments)
    return 1 if result.details["problems"] else 0
