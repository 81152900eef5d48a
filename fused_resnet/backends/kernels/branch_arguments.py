"""One branch of a tail as the compiled kernels take it: from tensors to a module's arguments, forward and backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...operation.branches import Branch, Direct, Norm, Projection, ZeroPad
from ...operation.computation import Gradients, Statistics, is_identity

_SOURCES = {Direct: "direct", ZeroPad: "zero_pad", Projection: "projection"}


def describe(module: Any, branch: Branch, keep: bool) -> Any:
    """The branch as the module's forward takes it; `keep` says whether statistics will be asked for."""
    weight, bias = _parameters(branch)
    return module.Branch(
        source=_SOURCES[type(branch)],
        x=branch.x,
        stride=branch.stride,
        channels_before=_channels_before(branch),
        weight=weight,
        bias=_contiguous(bias),
        norm=None if branch.norm is None else _describe_norm(module, branch.norm, keep),
    )


def _describe_norm(module: Any, norm: Norm, keep: bool) -> Any:
    running: tuple[Tensor | None, Tensor | None] = (norm.running_mean, norm.running_var)
    if not norm.training:
        running = (_contiguous(norm.running_mean), _contiguous(norm.running_var))
    elif norm.process_group is not None:  # updated when all processes' statistics are known
        running = (None, None)
    return module.Norm(
        weight=_contiguous(norm.weight),
        bias=_contiguous(norm.bias),
        running_mean=running[0],
        running_var=running[1],
        num_batches_tracked=norm.num_batches_tracked if norm.training and norm.process_group is None else None,
        momentum=norm.momentum,
        eps=norm.eps,
        training=norm.training,
        keep=keep,
    )


def kept(branch: Branch, of: Any) -> Statistics:
    """What backward needs of a module's statistics."""
    if branch.norm is None:
        return Statistics()
    return Statistics(of.mean if of.cov is None else None, of.var, of.mu, of.cov)


def describe_gradient(module: Any, branch: Branch, statistics: Statistics, into: Gradients) -> Any:
    """The branch as the module's backward takes it, with the memory that it writes."""
    reads_input = not (is_identity(branch) or isinstance(branch, ZeroPad))
    return module.BranchGradient(
        source=_SOURCES[type(branch)],
        x=branch.x if reads_input else None,
        weight=_parameters(branch)[0],
        stride=branch.stride,
        channels_before=_channels_before(branch),
        norm=None if branch.norm is None else _describe_statistics(module, branch.norm, statistics),
        dx=into.x,
        dweight=into.weight,
        dbias=into.bias,
        dgamma=into.gamma,
        dbeta=into.beta,
    )


def _describe_statistics(module: Any, norm: Norm, statistics: Statistics) -> Any:
    mean, var, mu, cov, own_mean = statistics
    return module.NormGradient(
        weight=_contiguous(norm.weight),
        # A bias that no kernel reads is not there at all.
        bias=None if norm.bias is None or norm.bias.is_meta else _contiguous(norm.bias),
        eps=norm.eps,
        training=norm.training,
        mean=mean,
        var=var,
        mu=mu,
        cov=cov,
        shared=norm.training and norm.process_group is not None,
        own_mean=own_mean,
    )


def _parameters(branch: Branch) -> tuple[Tensor | None, Tensor | None]:
    return (branch.weight, branch.bias) if isinstance(branch, Projection) else (None, None)


def _channels_before(branch: Branch) -> int:
    return branch.padding[0] if isinstance(branch, ZeroPad) else 0


def _contiguous(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()
