"""`residual_tail`, the one operation of this package, and the branches it takes.

y = activation(norm(source(a)) + norm(source(b)))
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from . import backend
from ._autocast import autocast_dtype
from ._tracers import refuse_tracers
from .branches import Activation, Branch, Direct, Norm, Placement, Projection, ZeroPad
from .checks import check_tail

__all__ = ["Activation", "Branch", "Direct", "Norm", "Placement", "Projection", "ZeroPad", "residual_tail"]


def residual_tail(main: Branch, shortcut: Branch | None, *, activation: Activation = "relu") -> Tensor:
    """The end of a residual block in one operation.

    Equivalent to::

        y = bn_main(source(main.x)) + bn_shortcut(source(shortcut.x))
        y = F.relu(y)

    where a source is the tensor itself (`Direct`), a 1x1 convolution (`Projection`) or a subsampled, zero-padded
    identity (`ZeroPad`), and each batch norm may be absent. Any pair of branches is valid. Running statistics are
    updated as ``F.batch_norm`` does. Under autocast a projection runs in the autocast dtype, as a convolution does.

    Args:
        main: the main branch, giving (N, C, Ho, Wo).
        shortcut: the shortcut, giving the same shape; None for the plain net, which adds nothing.
        activation: "relu" or None.

    Returns:
        (N, C, Ho, Wo) in the branches' dtype (fp64, fp32, fp16 or bf16) and the unfused operations' memory format.

    Raises:
        TypeError, ValueError: arguments do not fit together; nothing has been computed or written then.
        RuntimeError: it is being traced by ``torch.jit`` or exported to ONNX.
    """
    main, shortcut = prepare(main, shortcut, activation)
    return backend.implementation()(main, shortcut, activation)


def prepare(main: Branch, shortcut: Branch | None, activation: Activation) -> tuple[Branch, Branch | None]:
    """The branches as they will be computed, autocast applied and everything checked; raises as `residual_tail`."""
    refuse_tracers()
    main, shortcut = _under_autocast(main), None if shortcut is None else _under_autocast(shortcut)
    check_tail(main, shortcut, activation)
    return main, shortcut


def _under_autocast(branch: Branch) -> Branch:
    """The branch with a projection's operands cast as autocast casts a convolution's."""
    if not isinstance(branch, Projection) or not isinstance(branch.x, Tensor):
        return branch
    dtype = autocast_dtype(branch.x)
    if dtype is None:
        return branch
    bias = None if branch.bias is None else _cast(branch.bias, dtype)
    return replace(branch, x=_cast(branch.x, dtype), weight=_cast(branch.weight, dtype), bias=bias)


def _cast(operand: Tensor, dtype: torch.dtype) -> Tensor:
    castable = isinstance(operand, Tensor) and operand.is_floating_point() and operand.dtype != torch.float64
    return operand.to(dtype) if castable else operand
