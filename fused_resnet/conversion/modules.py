"""From standard ``nn`` modules to branches, and the reasons why a module cannot be taken into a tail.

Everything is read off the modules at the moment of the call, so that whatever was done to them since (frozen,
converted, hooked, reparametrised, replaced) counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules import module as _nn_module
from torch.nn.modules.batchnorm import _BatchNorm

from .. import functional
from ..examined import HOOKS, METHODS
from ..operation.branches import Activation, Branch, Direct, Norm, Projection
from ..operation.requirement import require_kernels
from ..operators import remembered
from .frozen_norms import BUFFERS, FrozenNorm, frozen_norm
from .recomputation import recipe_for

_GLOBAL_HOOKS = [getattr(_nn_module, f"_global{hooks}") for hooks in HOOKS]


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module would run a hook of its own."""
    return any(getattr(module, hooks) for hooks in HOOKS)


def hooks_for_all() -> str | None:
    """Why no module's call can be left out, where hooks are registered for all modules of the process."""
    return "hooks are registered for all modules of the process" if any(_GLOBAL_HOOKS) else None


def refusal(module: nn.Module, kind: type) -> str | None:
    """Why a tail cannot do this module's work in the place of a ``kind``, None where it can.

    ``kind`` is one of ``nn.Conv2d``, ``nn.BatchNorm2d`` (which ``nn.SyncBatchNorm`` may take the place of),
    ``nn.ReLU``, ``nn.Identity`` and `FrozenNorm`, or a shortcut of `fused_resnet.nn`.
    """
    name = type(module).__name__
    if kind is FrozenNorm:
        if frozen_norm(module) is None:
            return f"{name} is not a frozen batch norm"
        return f"{name} has hooks" if any(map(has_hooks, module.modules())) else None
    if kind is nn.BatchNorm2d and isinstance(module, nn.SyncBatchNorm):
        kind = nn.SyncBatchNorm
    if not isinstance(module, kind):
        return f"{name} is not a {kind.__name__}"
    if has_hooks(module):
        return f"{name} has hooks"
    own = [method for method in METHODS if _overrides(module, kind, method)]
    if own:
        return f"{name} is a {kind.__name__} with a {own[0]} of its own"
    return geometry_refusal(module) if isinstance(module, nn.Conv2d) else None


# A class of PyTorch's may be patched for the whole process: adaptation at test time does so. ``__call__`` is not looked
# at: whatever traces a module exchanges it.
_ORIGINALS: dict[tuple[type[nn.Module], str], Any] = {
    (kind, method): getattr(kind, method, None)
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.ReLU, nn.Identity)
    for method in METHODS
    if method != "__call__"
}


def _overrides(module: nn.Module, kind: type[nn.Module], method: str) -> bool:
    original = _ORIGINALS.get((kind, method), getattr(kind, method, None))
    return method in vars(module) or getattr(type(module), method, None) is not original


def _pair(size: Any) -> tuple[int, ...]:
    """Height's and width's value, from what ``F.conv2d`` takes for both: a number, or one or two in a sequence."""
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return sizes * 2 if len(sizes) == 1 else sizes


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether the kernel is 1x1."""
    return _pair(conv.kernel_size) == (1, 1)


def geometry_refusal(conv: nn.Conv2d) -> str | None:
    """Why a convolution is not a projection, None where it is."""
    if not is_pointwise(conv):
        return f"{'x'.join(map(str, _pair(conv.kernel_size)))} convolution"
    if conv.groups != 1:
        return f"convolution in {conv.groups} groups"
    if len(set(_pair(conv.stride))) > 1:
        return f"1x1 convolution with stride {conv.stride}"
    if conv.padding not in ("valid", "same") and _pair(conv.padding) != (0, 0):
        return f"1x1 convolution with padding {conv.padding}"
    return None


def branch_of(x: Tensor, conv: nn.Module | None, norm: nn.Module | None) -> Branch:
    """The branch ``norm(conv(x))``; each module may be None. Both must pass `refusal`."""
    described = None if norm is None else _norm_of(norm)
    if conv is None:
        return Direct(x, described)
    assert isinstance(conv, nn.Conv2d)
    weight, bias = _parameters_of(conv)
    stride: Any = conv.stride
    return Projection(x, weight, described, stride if isinstance(stride, int) else stride[0], bias)


def _norm_of(norm: nn.Module) -> Norm:
    """Describes what ``norm`` would do if called now, as ``nn.BatchNorm2d.forward`` decides it."""
    if not isinstance(norm, _BatchNorm):
        return _frozen(norm)
    training = norm.training
    tracks = not training or norm.track_running_stats
    weight, bias = _parameters_of(norm)
    running_mean, running_var, batches = _buffers_of(norm)
    return Norm(
        weight,
        bias,
        running_mean if tracks else None,
        running_var if tracks else None,
        batches if training and tracks else None,
        norm.momentum,
        norm.eps,
        training or (running_mean is None and running_var is None),
        _process_group(norm) if isinstance(norm, nn.SyncBatchNorm) else None,
    )


def _frozen(norm: nn.Module) -> Norm:
    described = frozen_norm(norm)
    assert described is not None
    weight, bias, mean, var = (norm._buffers[name] for name in BUFFERS)
    return Norm(weight, bias, mean, var, eps=described.eps, training=False)


def frozen_refusal(norm: nn.Module, x: Tensor, behind_convolution: bool) -> str | None:
    """Why a frozen norm would not give x's dtype, as a tail does; None where it would.

    These are formulas of tensors, which follow the rules of type promotion: half times float is float.
    """
    for name in BUFFERS:
        buffer = norm._buffers[name]
        if buffer is not None and buffer.dtype != x.dtype:
            return f"{type(norm).__name__} has {name} in {buffer.dtype} and its input in {x.dtype}"
    if behind_convolution and torch.is_autocast_enabled(x.device.type):
        return f"{type(norm).__name__} promotes what a convolution gives under autocast"
    return None


# PyTorch's own classes keep tensors in dictionaries, and these are read directly: looking an attribute up takes a
# microsecond. A replica's tensors are attributes like others.


def _parameters_of(module: nn.Module) -> tuple[Any, Any]:
    own = module._parameters
    if type(module) in (nn.BatchNorm2d, nn.Conv2d) and "weight" in own:
        return own["weight"], own["bias"]
    return module.weight, module.bias


def _buffers_of(norm: nn.Module) -> tuple[Any, Any, Any]:
    own = norm._buffers
    if type(norm) is nn.BatchNorm2d and "running_mean" in own:
        return own["running_mean"], own["running_var"], own["num_batches_tracked"]
    return norm.running_mean, norm.running_var, norm.num_batches_tracked


def _process_group(norm: nn.SyncBatchNorm) -> str | None:
    """Name of the group of processes that the norm shares its statistics with now, as its forward decides it."""
    if not norm.training or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    group = norm.process_group or torch.distributed.group.WORLD
    assert group is not None
    return str(group.group_name) if torch.distributed.get_world_size(group) > 1 else None


def norm_with_relu_or(unfused: Callable[[], Tensor], branch: Branch) -> Tensor:
    """The relu of a branch's norm, which backward computes again in the place of keeping it; or ``unfused()``."""
    recipe = recipe_for(branch)
    if recipe is None:
        return residual_tail_or(unfused, branch, None, "relu")
    try:
        prepared, _ = functional.prepare(branch, None, "relu")
    except (TypeError, ValueError) as error:
        return leave_out(unfused, str(error))
    with recipe:
        y = functional.residual_tail(prepared, None)
    recipe.hand_over(y)
    return y


def residual_tail_or(
    unfused: Callable[[], Tensor], main: Branch, shortcut: Branch | None, activation: Activation
) -> Tensor:
    """`functional.residual_tail`, or ``unfused()`` where it refuses: fusing must not make a module pickier."""
    y = remembered.run(main, shortcut, activation)
    if y is not None:
        return y
    try:
        main, shortcut = functional.prepare(main, shortcut, activation)
    except (TypeError, ValueError) as error:
        return leave_out(unfused, str(error))
    return functional.compute(main, shortcut, activation)


def leave_out(unfused: Callable[[], Tensor], reason: str) -> Tensor:
    """``unfused()`` in the place of a tail, which a reason stands against."""
    if functional.listener.value is not None:
        functional.listener.value.left_out(reason)
    require_kernels(reason)
    return unfused()
