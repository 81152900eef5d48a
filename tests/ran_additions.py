"""Which modules of a model add feature maps, seen while it runs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__}


class RanAdditions(TorchFunctionMode):
    """Notes the innermost module around each addition of two values of the same four dimensions.

    Attributes:
        names: their qualified names.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names: list[str] = []
        self._around: list[str] = []
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self._around.append(name))
            module.register_forward_hook(lambda *_: self._around.pop() and None)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [a.shape for a in args[:2] if isinstance(a, Tensor)]
        if function in _ADDITIONS and shapes[1:] == shapes[:1] and len(shapes[0]) == 4:
            self.names.append(self._around[-1])
        return function(*args, **(kwargs or {}))
