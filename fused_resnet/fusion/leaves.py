"""Which modules a block's graph shows as one call, and which it looks through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from ..conversion.frozen_norms import frozen_norm
from ..conversion.modules import has_hooks
from ..nn import ResidualBlock

PROGRAM = "_fused_program"  # the attribute by which a fused block has its program


def is_norm(module: nn.Module | None) -> bool:
    """Whether it is a batch norm, frozen ones of other libraries included."""
    return isinstance(module, _BatchNorm) or (module is not None and frozen_norm(module) is not None)


def is_leaf(module: nn.Module) -> bool:
    """Whether a block's graph shows the module as one call."""
    return not is_block(module) or isinstance(module, (FusedForward, fx.GraphModule)) or opacity(module) is not None


def opacity(module: nn.Module) -> str | None:
    """Why calling the module does more than its class's forward, None where it does not."""
    if has_hooks(module):
        return f"{type(module).__name__} has hooks"
    return "its forward is replaced on the instance" if "forward" in vars(module) else None


def is_block(module: nn.Module) -> bool:
    """Whether a module's forward may put others together: not PyTorch's own, no convolution or norm of any class."""
    if isinstance(module, (_ConvNd, _NormBase, torch.jit.ScriptModule, ResidualBlock)):
        return False
    if frozen_norm(module) is not None:
        return False
    return isinstance(module, nn.Sequential) or not type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))


def calls_more_than_forward(module: nn.Module) -> bool:
    """Whether the module's class has a ``__call__`` around that of ``nn.Module``, which a graph would run twice.

    That of a ``torch.fx.GraphModule`` only tells more where something goes wrong.
    """
    around = any("__call__" in vars(cls) for cls in type(module).__mro__ if cls not in nn.Module.__mro__)
    return around and not isinstance(module, fx.GraphModule)


class FusedForward:
    """Base of the classes that `fused_resnet.fuse` gives to blocks; each knows the class that it stands for."""

    _unfused_class: type[nn.Module]


def unfused_class(module: nn.Module) -> type[nn.Module]:
    """The module's class, or, of a fused block, the class that it had before."""
    return module._unfused_class if isinstance(module, FusedForward) else type(module)


def containers(block: nn.Module, leaves: Set[nn.Module], path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The block and the modules in it that its graph looks through, each with its path."""
    yield path, block
    for name, child in block.named_children():
        if child not in leaves and not is_leaf(child):
            yield from containers(child, leaves, f"{path}.{name}" if path else name)


def finder(path: str) -> Callable[[nn.Module], Any]:
    """What finds the module of that name in a block."""
    names = path.split(".") if path else []

    def find(block: nn.Module) -> Any:
        module: Any = block
        for name in names:
            module = module._modules[name]
        return module

    return find
