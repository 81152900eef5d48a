"""Outputs of norms that backward computes again from the norm's input, and that nobody keeps until then.

A norm with its relu, y = relu(norm(z)), is cheap, and z is kept for backward in any case. What would keep y, the tail
for the relu's mask and the convolution behind it for its weight's gradient, gets a recipe in its place. The recipe runs
the same operation on the same numbers, so that y has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .. import backend, functional
from ..operation.branches import Branch, Direct, named_tensors

_ATTRIBUTE = "_fused_resnet_recipe"
_Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


def _hooks_at_work() -> _Hooks | None:
    """What somebody else packs and unpacks autograd's tensors with."""
    hooks: _Hooks | None = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks


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


class _KeptElsewhere(NamedTuple):
    """What somebody else's hooks have made of a tensor: offloading, checkpointing, whoever counts."""

    packed: Any
    unpack: Callable[[Any], Tensor]

    def get(self) -> Tensor:
        return self.unpack(self.packed)


def _keep(t: Tensor) -> _Kept:
    return _Kept(t if t.is_leaf else t.detach(), t._version)


def _keep_as_others_do(t: Tensor, hooks: _Hooks | None) -> _Kept | _KeptElsewhere:
    if hooks is None:
        return _keep(t)
    pack, unpack = hooks
    return _KeptElsewhere(pack(t), unpack)


class Recipe:
    """A context in which autograd keeps this in the place of one norm's output."""

    def __init__(self, branch: Direct) -> None:
        x = branch.x
        self._z, self._shape = _storage_of(x), x.shape
        self._input = _keep_as_others_do(x, _hooks_at_work())
        assert branch.norm is not None
        self._norm = branch.norm
        self._vectors = [_keep(t) for name, t in named_tensors(branch) if t is not x and not _is_updated(branch, name)]
        self._backend = backend.choice.value
        self._y: int | None = None  # its storage
        self._asked = 0
        self._again: Tensor | None = None
        self._contexts: list[tuple[saved_tensors_hooks, _Hooks | None]] = []

    def __enter__(self) -> Recipe:
        others = _hooks_at_work()
        hooks = saved_tensors_hooks(self._pack, self._unpack)
        hooks.__enter__()
        self._contexts.append((hooks, others))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contexts.pop()[0].__exit__(kind, error, trace)

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
            return _keep_as_others_do(t, self._contexts[-1][1])
        self._asked += 1
        return self

    def _unpack(self, kept: Recipe | _Kept | _KeptElsewhere) -> Tensor:
        if not isinstance(kept, Recipe):
            return kept.get()
        # The convolution's backward asks first and the tail's next: it is computed for the first and freed by the last.
        y = self._compute() if self._again is None else self._again
        self._asked -= 1
        self._again = y if self._asked > 0 else None
        return y

    def _compute(self) -> Tensor:
        for kept in self._vectors:
            kept.get()
        x, norm = self._input.get().detach(), self._norm
        if norm.training:  # running statistics have taken this batch
            norm = replace(norm, running_mean=None, running_var=None, num_batches_tracked=None, momentum=0.1)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False), backend.choice.set(self._backend):
            return functional.residual_tail(Direct(x, norm), None)


def require() -> None:
    """Raises RuntimeError where this PyTorch does not tell whether somebody else keeps autograd's tensors."""
    if not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):
        raise RuntimeError(f"recompute=True needs PyTorch 2.8 or later, and this is {torch.__version__}")


def recipe_for(branch: Branch) -> Recipe | None:
    """How to compute the relu of a branch's norm again; None where it is kept.

    Statistics that processes share would have to be exchanged again. What compilers and ``torch.func`` keep is theirs
    to decide.
    """
    if not isinstance(branch, Direct) or branch.norm is None or branch.norm.process_group is not None:
        return None
    if torch.compiler.is_dynamo_compiling() or not torch.is_grad_enabled():
        return None
    return None if functional.is_transformed() else Recipe(branch)


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
