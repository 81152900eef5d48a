"""Whole networks whose relus let the same elements through, in whichever precision they run.

A relu passes its gradient on or not, and rounding decides where its input is close to zero. One element decided
otherwise moves the gradients of a network by a thousand times what rounding does otherwise. Here the masks of one run
are recorded and given to others, whose gradients then differ by rounding alone. Outputs stay those of the relu.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def recorded_masks(blocks: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """A list of where the relus called within let something through, in the order of their calls.

    `blocks` are the fused blocks: they end in a relu that nobody sees called.
    """
    masks: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: masks.append(output.detach() > 0)) for block in blocks]
    try:
        with _Recorder(masks):
            yield masks
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def given_masks(masks: list[Tensor]) -> Iterator[None]:
    """Lets the backward of the relus called within, in the order of their calls, go by these masks."""
    remaining = iter(masks)
    with _Giver(remaining):
        yield
    assert next(remaining, None) is None, "fewer relus were called than there are masks"


class _Recorder(TorchFunctionMode):
    def __init__(self, masks: list[Tensor]) -> None:
        super().__init__()
        self._masks = masks

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is F.relu:
            self._masks.append(result.detach() > 0)
        return result


class _Giver(TorchFunctionMode):
    def __init__(self, masks: Iterator[Tensor]) -> None:
        super().__init__()
        self._masks = masks

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.relu:
            return _GivenRelu.apply(args[0], next(self._masks))
        return function(*args, **(kwargs or {}))


class _GivenRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mask):
        ctx.save_for_backward(mask)
        return x.relu()

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(dy, mask.to(dy.dtype), 0), None
