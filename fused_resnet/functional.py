"""`residual_tail`, the one operation of this package, and the branches it takes.

y = activation(norm(source(a)) + norm(source(b)))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .cost import choice
from .operation import reference
from .operation.autocast import under_autocast
from .operation.branches import Activation, Branch, Direct, Norm, Placement, Projection, ZeroPad
from .operation.checks import check_tail
from .operation.computation import operands_of, shares_statistics
from .operation.setting import Setting
from .operation.tracers import refuse_tracers
from .operators import ops, remembered

__all__ = ["Activation", "Branch", "Direct", "Norm", "Placement", "Projection", "ZeroPad", "residual_tail"]


class Listener(Protocol):
    """Is told of what the operators do not show."""

    def left_out(self, reason: str) -> None:
        """A tail runs as PyTorch's operations."""
        ...

    def convolved(self, branches: Sequence[Branch | None]) -> None:
        """PyTorch's convolution has computed these of the next tail's branches."""
        ...


listener: Setting[Listener | None] = Setting(None)


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
    y = remembered.run(main, shortcut, activation)
    if y is None:
        main, shortcut = prepare(main, shortcut, activation)
        y = compute(main, shortcut, activation)
    return y


def prepare(main: Branch, shortcut: Branch | None, activation: Activation) -> tuple[Branch, Branch | None]:
    """The branches as they will be computed, autocast applied and everything checked; raises as `residual_tail`."""
    refuse_tracers()
    main, shortcut = under_autocast(main), None if shortcut is None else under_autocast(shortcut)
    check_tail(main, shortcut, activation)
    return main, shortcut


def compute(main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    """The output for what `prepare` returned."""
    branches = [main] if shortcut is None else [main, shortcut]
    reason = _left_to_pytorch(branches)
    by_library = None if reason is not None else choice.by_library(branches, ops.needs_backward(branches))
    if by_library is None:
        if listener.value is not None:
            listener.value.left_out(reason or "PyTorch's own operations are faster")
        return reference.residual_tail(main, shortcut, activation)
    if any(by_library):
        remembered.learn_library(main, shortcut, activation, by_library)
        main, shortcut, *_ = *map(_behind_convolution, branches, by_library), None
        if listener.value is not None:
            listener.value.convolved([b if own else None for b, own in zip(branches, by_library, strict=True)])
        return compute(main, shortcut, activation)
    remembered.learn(main, shortcut, activation)
    y = remembered.run(main, shortcut, activation)
    return ops.residual_tail(main, shortcut, activation) if y is None else y


def _behind_convolution(branch: Branch, by_library: bool) -> Branch:
    """The branch from what PyTorch's convolution makes of it, where that computes it."""
    if not by_library or not isinstance(branch, Projection):
        return branch
    return Direct(F.conv2d(branch.x, branch.weight, branch.bias, branch.stride), branch.norm)


def _left_to_pytorch(branches: Sequence[Branch]) -> str | None:
    """Why a tail is computed by PyTorch's operations, autograd's backward included; None where it is one operation."""
    if is_transformed():
        return "what torch.func derives is that of PyTorch's operations"
    if _has_tangents(branches):
        return "forward-mode derivatives are those of PyTorch's operations"
    # A process that has no rows takes part in what others exchange.
    alone = not any(shares_statistics(branch) for branch in branches)
    if alone and any(b.x.numel() == 0 or b.out_channels == 0 for b in branches):
        return "the batch is empty"
    if any(isinstance(branch, Projection) or branch.norm is not None for branch in branches):
        return None
    if len(branches) == 1:
        return "there is nothing to add or to normalise"
    # Its backward computes nothing, and may be differentiated again.
    return "a plain addition is left to autograd" if ops.needs_backward(branches) else None


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work: `grad`, `vmap`, `jvp` and what is made of them."""
    if torch.compiler.is_dynamo_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def _has_tangents(branches: Sequence[Branch]) -> bool:
    """Whether a derivative is computed along with the output. Such tensors may ask for no gradient."""
    if forward_ad._current_level < 0:  # by far the most calls
        return False
    operands = (tensor for branch in branches for tensor in operands_of(branch))
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in operands)
