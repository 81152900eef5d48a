"""The residual tail by the compiled kernels: one launch forward, one launch backward.

What the kernels do not take goes to `fused_resnet.moments`: float64, empty tensors, norms that share their buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import moments
from .autograd import compute_tail, needs_backward
from .branches import Activation, Branch, Norm, Projection, output_shape
from .kernel_branch import KernelBranch
from .paths import Gradients, Needs, Operands, Saved

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# What the kernels index with 32 bits.
_MOST_ROWS, _MOST_CHANNELS = 2**31 - 2**13, 2**20


def residual_tail(module: ModuleType, main: Branch, shortcut: Branch | None, activation: Activation) -> Tensor:
    """The same as `reference.residual_tail`, by the kernels of a compiled module. Double backward raises."""
    branches = [main] if shortcut is None else [main, shortcut]
    backward = needs_backward(branches)
    if not _has_kernel(branches, backward):
        return moments.residual_tail(main, shortcut, activation)
    own = [KernelBranch(branch, backward) for branch in branches]
    return compute_tail(KernelTail(module, own, activation), branches, activation)


class KernelTail:
    """A call of the kernels for a tail of one or two branches."""

    def __init__(self, module: ModuleType, branches: Sequence[KernelBranch], activation: Activation) -> None:
        self._module, self._branches, self._activation = module, branches, activation

    def forward(self, operands: Sequence[Operands]) -> tuple[Tensor, list[Saved]]:
        # The kernels read memory: a view that negates it (the imaginary part of a conjugate) would be lost on them.
        plain = [_plain(own) for own in operands]
        each = list(zip(self._branches, plain, strict=True))
        y = _empty_output([branch.addend_layout(own) for branch, own in each], plain[0].x)
        call = self.forward_call(plain, y)
        call.run()
        return y, [branch.saved(own, call.statistics(i)) for i, (branch, own) in enumerate(each)]

    def forward_call(self, operands: Sequence[Operands], y: Tensor) -> Any:
        """The module's call that writes y, not yet run."""
        described = [b.describe(self._module, own) for b, own in zip(self._branches, operands, strict=True)]
        return self._module.Forward(
            main=described[0],
            shortcut=described[1] if len(described) == 2 else None,
            y=y,
            relu=self._activation == "relu",
            tf32=torch.backends.cudnn.allow_tf32,
        )

    def backward(self, dy: Tensor, y: Tensor | None, saved: Sequence[Saved], needs: Sequence[Needs]) -> list[Gradients]:
        # Without a relu, what an identity gets is dy itself.
        empty = [
            branch.empty_gradients(kept, asked, y is not None)
            for branch, kept, asked in zip(self._branches, saved, needs, strict=True)
        ]
        self.backward_call(dy.resolve_neg(), y, saved, empty).run()
        passed = [
            y is None and asked.x and branch.is_identity for branch, asked in zip(self._branches, needs, strict=True)
        ]
        return [own._replace(x=dy) if passes else own for own, passes in zip(empty, passed, strict=True)]

    def backward_call(self, dy: Tensor, y: Tensor | None, saved: Sequence[Saved], into: Sequence[Gradients]) -> Any:
        """The module's call that writes the gradients, not yet run."""
        each = zip(self._branches, saved, into, strict=True)
        described = [branch.describe_gradient(self._module, kept, out) for branch, kept, out in each]
        return self._module.Backward(
            main=described[0],
            shortcut=described[1] if len(described) == 2 else None,
            dy=dy,
            y=y,
            tf32=torch.backends.cudnn.allow_tf32,
        )


def _plain(operands: Operands) -> Operands:
    x, *parameters = operands
    return Operands(x.resolve_neg(), *(None if t is None else t.resolve_neg() for t in parameters))


def _has_kernel(branches: Sequence[Branch], backward: bool) -> bool:
    n, c, h, w = output_shape(branches[0])
    if branches[0].x.dtype not in _DTYPES or any(branch.x.numel() == 0 for branch in branches):
        return False
    if n * h * w > _MOST_ROWS or c > _MOST_CHANNELS:
        return False
    # A sum of plain tensors is autograd's own business: its backward is none, and may be differentiated again. One
    # plain tensor is no sum, and without an activation the output itself.
    computes = any(isinstance(b, Projection) or b.norm is not None for b in branches)
    if not computes and (backward or len(branches) == 1):
        return False
    norms = [b.norm for b in branches if b.norm is not None and b.norm.training]
    return all(_buffers_fit(norm) for norm in norms) and not (len(norms) == 2 and _share_buffers(*norms))


def _buffers_fit(norm: Norm) -> bool:
    batches = norm.num_batches_tracked
    tracked = [norm.running_mean, norm.running_var]
    return (batches is None or batches.dtype == torch.int64) and all(t is None or _is_plain(t) for t in tracked)


def _is_plain(vector: Tensor) -> bool:
    return vector.is_contiguous() and not vector.is_neg()


def _share_buffers(a: Norm, b: Norm) -> bool:
    def addresses(norm: Norm) -> set[int]:
        buffers = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        return {t.data_ptr() for t in buffers if t is not None}

    return bool(addresses(a) & addresses(b))


def _empty_output(layouts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Memory for the output, laid out as the sum of addends with these layouts would be."""
    layout = layouts[0] if len(layouts) == 1 else layouts[0] + layouts[1]
    if not torch.ops.aten.is_non_overlapping_and_dense(layout):
        layout = torch.empty_like(layout)
    return torch.empty_strided(layout.shape, layout.stride(), dtype=like.dtype, device=like.device)
