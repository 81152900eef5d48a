"""The accuracy rule (``docs/design.md``, section 7): how far a result may be from the one in float64."""

from __future__ import annotations

import torch

# Error that is allowed beside twice that of PyTorch's own operations, relative to the result's norm: now and then these
# are right by luck.
FLOORS = {
    # PyTorch's operations are the reference here: this is all there is for sums in another order, cancellation
    # included. A wrong formula is wrong by far more.
    torch.float64: 1e-11,
    # A few roundings to 6e-8 each.
    torch.float32: 1e-6,
    # Half precision: one rounding of the result, after sums in float32.
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}


def allowed_error(eager_error: float, norm: float, floor: float) -> float:
    """The largest norm of a result's difference from the exact one, whose `norm` is given.

    `eager_error` is that of PyTorch's unfused operations in the result's dtype.
    """
    return 2 * eager_error + floor * norm
