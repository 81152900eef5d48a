"""Outputs of norms that backward computes again from the norm's input, and that nobody keeps until then.

A norm with its relu, y = relu(norm(z)), is cheap, and z is kept for backward in any case. What would keep y, the tail
for the relu's mask and the convolution behind it for its weight's gradient, gets a recipe in its place. The recipe runs
the same operation on the same numbers, so that y has the same bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from . import backend, functional
from .branches import Branch, Direct, named_tensors

_ATTRIBUTE = "_fused_resnet_recipe"
# By which autograd tells whether somebody else keeps its tensors; from PyTorch 2.8 on.
_hooks_at_work = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


class _Kept(NamedTuple):
    """A tensor as it was kept; autograd looks at versions only where nobody else keeps its tensors."""

    tensor: Tensor
    version: int

    def get(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation:"
                f" a {self.tensor.dtype} tensor of shape {tuple(self.tensor.shape)} is at version"
                f" {self.tensor._version}, expected version {self.version}"
            )
        return self.tensor


def _keep(t: Tensor) -> _Kept:
    return _Kept(t if t.is_leaf else t.detach(), t._version)


class Recipe:
    """A context in which autograd keeps this in the place of one norm's output."""

    def __init__(self, branch: Direct) -> None:
        self._z = _storage_of(branch.x)
        self._shape = branch.x.shape
        self._of = branch
        self._versions = [_keep(t) for name, t in named_tensors(branch) if not _is_updated(branch, name)]
        self._backend = backend.choice.value
        self._y: int | None = None  # its storage
        self._asked = 0
        self._again: Tensor | None = None
        self._hooks: list[saved_tensors_hooks] = []

    def __enter__(self) -> Recipe:
        hooks = saved_tensors_hooks(self._pack, self._unpack)
        hooks.__enter__()
        self._hooks.append(hooks)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.pop().__exit__(kind, error, trace)

    def hand_over(self, y: Tensor) -> None:
        """Says which output it is of; `forgetting` finds it by that."""
        self._y = _storage_of(y)
        setattr(y, _ATTRIBUTE, self)

    def _is_output(self, t: Tensor) -> bool:
        if self._y is not None:
            return _storage_of(t) == self._y
        return t.shape == self._shape and _storage_of(t) != self._z  # all else that the tail keeps are vectors

    def _pack(self, t: Tensor) -> Any:
        if not self._is_output(t):
            return _keep(t)
        self._asked += 1
        return self

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, _Kept):
            return kept.get()
        # The convolution's backward asks first and the tail's next: it is computed for the first and freed by the last.
        y = self._compute() if self._again is None else self._again
        self._asked -= 1
        self._again = y if self._asked > 0 else None
        return y

    def _compute(self) -> Tensor:
        for kept in self._versions:
            kept.get()
        branch, norm = self._of, self._of.norm
        assert norm is not None
        if norm.training:  # running statistics have taken this batch
            norm = replace(norm, running_mean=None, running_var=None, num_batches_tracked=None, momentum=0.1)
        device = branch.x.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False), backend.choice.set(self._backend):
            return functional.residual_tail(Direct(branch.x.detach(), norm), None)


def require() -> None:
    """Raises RuntimeError where this PyTorch does not tell whether somebody else keeps autograd's tensors."""
    if _hooks_at_work is None:
        raise RuntimeError(f"recompute=True needs PyTorch 2.8 or later, and this is {torch.__version__}")


def recipe_for(branch: Branch) -> Recipe | None:
    """How to compute the relu of a branch's norm again; None where it is kept.

    Statistics that are shared between processes would have to be exchanged again. Where somebody else keeps autograd's
    tensors (activation checkpointing, offloading), or takes them apart (compilers, ``torch.func``), it is theirs to do.
    """
    if not isinstance(branch, Direct) or branch.norm is None or branch.norm.process_group is not None:
        return None
    if torch.compiler.is_dynamo_compiling() or not torch.is_grad_enabled() or _hooks_at_work is None:
        return None
    if functional.is_transformed() or _hooks_at_work(False) is not None:
        return None
    return Recipe(branch)


def forgetting(*tensors: Tensor) -> AbstractContextManager[Any]:
    """A context for an operation on a tensor of which there may be a recipe: it keeps that in its place."""
    if torch.compiler.is_dynamo_compiling() or not torch.is_grad_enabled():
        return nullcontext()
    recipes = (getattr(t, _ATTRIBUTE, None) for t in tensors)
    return next((recipe for recipe in recipes if recipe is not None), nullcontext())


def _storage_of(t: Tensor) -> int:
    """It has no address where tensors have no values."""
    return int(t.untyped_storage()._cdata)


def _is_updated(branch: Direct, name: str) -> bool:
    """Whether the forward itself changes the tensor."""
    assert branch.norm is not None
    return branch.norm.training and name.startswith(("norm.running", "norm.num_batches"))
