"""Which launches a tail takes, and how these compute products.

There is one kernel a direction, ``forward<p>`` and ``backward<p>`` (``docs/kernels.md``). A launch that runs only some
of its phases has their name in the place of the direction's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...operation.branches import Projection
from ...operation.computation import Needs, Tail, shares_statistics
from .phases import gradient_of


def math_of(dtype: torch.dtype) -> str:
    """How products of a dtype are computed: its name, or "tf32"."""
    tf32 = dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return "tf32" if tf32 else str(dtype).removeprefix("torch.")


def _projections(tail: Tail) -> int:
    return int(any(isinstance(branch, Projection) for branch in tail.branches))


def forward_kernel(tail: Tail) -> str:
    """ "forward<p>", or where no norm is training "apply<p>", p for whether there are projections.

    Where processes share statistics, "summarise + apply<p>".
    """
    projections = _projections(tail)
    if any(map(shares_statistics, tail.branches)):
        return f"summarise + apply<{projections}>"
    training = any(branch.norm is not None and branch.norm.training for branch in tail.branches)
    return f"{'forward' if training else 'apply'}<{projections}>"


def backward_kernel(tail: Tail, needs: Sequence[Needs]) -> str | None:
    """ "backward<p>"; where one phase has work, its; None where none has.

    Where processes share statistics, "grad_summarise<p> + grad_complete<p>", or without projections grad_apply.
    """
    projections = _projections(tail)
    gradient = gradient_of(tail, needs)
    if any(map(shares_statistics, tail.branches)):
        return f"grad_summarise<{projections}> + grad_{'complete' if projections else 'apply'}<{projections}>"
    folds = any(own.needs.x and isinstance(own.branch, Projection) for own in gradient.branches)
    finishes = folds or any(own.has_vectors for own in gradient.branches)
    applies = any(own.applies for own in gradient.branches)
    if not finishes and not applies:
        name = "grad_reduce" if gradient.reduces else None
    else:
        name = "grad_apply" if not gradient.reduces and not finishes else "backward"
    return name and f"{name}<{projections}>"
