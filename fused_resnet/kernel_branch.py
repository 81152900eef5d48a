"""One branch of a tail as the compiled kernels take it: from tensors to a module's arguments, forward and backward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import reference
from .branches import Branch, Direct, Norm, Projection, ZeroPad, output_shape
from .checks import HALF_DTYPES
from .paths import Gradients, Needs, Operands, Saved, memory_format
from .strategy import FLOAT32_OPERATIONS_PER_BYTE, Problem, decide


class _Saved(NamedTuple):
    """What backward reads; None where it does not, or where there is no such operand."""

    x: Tensor | None = None
    weight: Tensor | None = None
    gamma: Tensor | None = None
    mean: Tensor | None = None
    var: Tensor | None = None
    mu: Tensor | None = None
    cov: Tensor | None = None


class KernelBranch:
    """A branch of one call; `backward` says whether gradients will be asked for. Holds no tensor of the branch."""

    def __init__(self, branch: Branch, backward: bool) -> None:
        self._shape, self._stride, self._backward = output_shape(branch), branch.stride, backward
        self._source = {Direct: "direct", ZeroPad: "zero_pad", Projection: "projection"}[type(branch)]
        self._channels_before = branch.padding[0] if isinstance(branch, ZeroPad) else 0
        self._moments = isinstance(branch, Projection) and _takes_moments(branch, backward)
        # The branch outlives the forward: it gets gamma and beta as operands and must not keep these alive beside them.
        self._norm = None if branch.norm is None else replace(branch.norm, weight=None, bias=None)
        self._x_shape, self._x_format = branch.x.shape, memory_format(branch.x)
        self._options: dict[str, Any] = {"dtype": branch.x.dtype, "device": branch.x.device}
        affine = [] if branch.norm is None else [t for t in (branch.norm.weight, branch.norm.bias) if t is not None]
        self._vector_options = {**self._options, "dtype": affine[0].dtype} if affine else self._options

    @property
    def is_identity(self) -> bool:
        return self._source == "direct" and self._norm is None

    def addend_layout(self, operands: Operands) -> Tensor:
        """A tensor without memory in the layout that the unfused operations give to the addend."""
        x, weight = operands.x, operands.weight
        if self.is_identity:
            return torch.empty_strided(x.shape, x.stride(), device="meta")
        if self._source == "zero_pad":
            x = reference.subsample(torch.empty_strided(x.shape, x.stride(), device="meta"), self._stride)
            if x.shape[1] == self._shape[1]:  # padding by nothing copies
                return torch.empty_like(x)
        formats = [memory_format(t) for t in (x, weight) if t is not None]
        chosen = torch.channels_last if torch.channels_last in formats else torch.contiguous_format
        return torch.empty(self._shape, device="meta", memory_format=chosen)

    def describe(self, module: Any, operands: Operands) -> Any:
        """The branch as the module's forward takes it."""
        return module.Branch(
            source=self._source,
            x=operands.x,
            stride=self._stride,
            channels_before=self._channels_before,
            weight=operands.weight,
            bias=_contiguous(operands.bias),
            norm=None if self._norm is None else self._describe_norm(module, self._norm, operands),
            materialise=not self._moments,
        )

    def _describe_norm(self, module: Any, norm: Norm, operands: Operands) -> Any:
        running = (norm.running_mean, norm.running_var)
        mean, var = running if norm.training else map(_contiguous, running)
        return module.Norm(
            weight=_contiguous(operands.gamma),
            bias=_contiguous(operands.beta),
            running_mean=mean,
            running_var=var,
            num_batches_tracked=norm.num_batches_tracked if norm.training else None,
            momentum=norm.momentum,
            eps=norm.eps,
            training=norm.training,
            keep=self._backward,
        )

    def saved(self, operands: Operands, statistics: Any) -> Saved:
        """What backward needs, from the forward's operands and statistics."""
        x, weight, _, gamma, _ = operands
        if not self._backward or self._source == "zero_pad" or self.is_identity:
            return _Saved()
        if self._norm is None:
            return _Saved(x, weight)
        # Mean and variance of the pre-norm tensor, or of what it is computed from.
        mean = statistics.mean if statistics.cov is None else None
        return _Saved(x, weight, gamma, mean, statistics.var, statistics.mu, statistics.cov)

    def empty_gradients(self, saved: Saved, needs: Needs, relu: bool) -> Gradients:
        """Memory for the gradients that are asked for; for an identity's only where a relu makes it differ from dy."""
        kept = _Saved(*saved)
        writes_x = needs.x and (relu or not self.is_identity)
        channels = self._shape[1]
        return Gradients(
            x=torch.empty(self._x_shape, memory_format=self._x_format, **self._options) if writes_x else None,
            weight=torch.empty_like(kept.weight) if needs.weight and kept.weight is not None else None,
            bias=torch.empty(channels, **self._options) if needs.bias else None,
            gamma=torch.empty(channels, **self._vector_options) if needs.gamma else None,
            beta=torch.empty(channels, **self._vector_options) if needs.beta else None,
        )

    def describe_gradient(self, module: Any, saved: Saved, into: Gradients) -> Any:
        """The branch as the module's backward takes it."""
        kept = _Saved(*saved)
        return module.BranchGradient(
            source=self._source,
            x=kept.x,
            weight=kept.weight,
            stride=self._stride,
            channels_before=self._channels_before,
            norm=None if self._norm is None else self._describe_statistics(module, self._norm, kept),
            dx=into.x,
            dweight=into.weight,
            dbias=into.bias,
            dgamma=into.gamma,
            dbeta=into.beta,
        )

    def _describe_statistics(self, module: Any, norm: Norm, kept: _Saved) -> Any:
        return module.NormGradient(
            weight=_contiguous(kept.gamma),
            eps=norm.eps,
            training=norm.training,
            mean=kept.mean,
            var=kept.var,
            mu=kept.mu,
            cov=kept.cov,
        )


def _takes_moments(branch: Projection, backward: bool) -> bool:
    if branch.norm is None or not branch.norm.training:
        return True
    n, c, h, w = output_shape(branch)
    problem = Problem(n * h * w, branch.x.shape[1], c, branch.x.element_size(), backward)
    return decide(problem, _operations_per_byte(branch.x.dtype)) == "moments"


def _operations_per_byte(dtype: torch.dtype) -> float:
    """What a large GPU does in the time of moving one byte: on tensor cores in half precision, or on CUDA cores.

    With tf32, x^T x takes three products for one (``csrc/products.cuh``): a third of the tensor cores' rate.
    """
    if dtype in HALF_DTYPES:
        return 180.0
    return 30.0 if torch.backends.cudnn.allow_tf32 else FLOAT32_OPERATIONS_PER_BYTE


def _contiguous(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()
