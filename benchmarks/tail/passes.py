"""What PyTorch's own operators move and multiply, watched as they are dispatched, without computing anything.

Each operator is taken by itself, with a declared number of passes over each tensor: the fewest that its result allows
where the tensor does not fit a cache. Weights and vectors are left out, as in `fused_resnet.cost.traffic`, with which
these figures are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Arguments = Sequence[Any]
# Elements that are read or written, and operations, from the operator's arguments and its result.
Count = Callable[[Arguments, Any], tuple[int, int]]

# Operators that allocate memory, look at it in another way or count a batch.
_QUIET = frozenset({"empty", "empty_like", "new_empty", "detach", "slice", "view", "as_strided", "alias"})


class Watched(TorchDispatchMode):
    """Within the ``with`` block, counts what is dispatched; tensors on the meta device do.

    Attributes:
        elements: read or written, of activations.
        operations: of products; a multiply-add is two.
        operators: that compute something: each is a kernel or more.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = self.operations = self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Arguments = (), kwargs: Any = None) -> Any:
        """Runs the operator and counts it.

        Raises:
            ValueError: nobody has declared its passes.
        """
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        counts_a_batch = isinstance(args[0], Tensor) and args[0].dim() == 0 if args else False
        if name in _QUIET or counts_a_batch:
            return result
        if name not in _COUNTS:
            raise ValueError(f"the operator is {name}, expected one whose passes are declared: {', '.join(_COUNTS)}")
        elements, operations = _COUNTS[name](args, result)
        self.elements += elements
        self.operations += operations
        self.operators += 1
        return result


def _convolution(args: Arguments, y: Tensor) -> tuple[int, int]:
    """Reads the pixels that it uses and writes y."""
    x, weight = args[:2]
    return _used(x, y) + y.numel(), _product(y, weight)


def _convolution_backward(args: Arguments, _: Any) -> tuple[int, int]:
    """Reads dy and writes all of dx; reads dy and the pixels of x that were used, for the weight."""
    dy, x, weight = args[:3]
    of_x, of_weight, _ = args[-1]
    elements = of_x * (dy.numel() + x.numel()) + of_weight * (dy.numel() + _used(x, dy))
    return elements, (of_x + of_weight) * _product(dy, weight)


def _used(x: Tensor, y: Tensor) -> int:
    """Elements of x that a 1x1 convolution reads for y, whose stride passes by the others."""
    return y.numel() // y.shape[1] * x.shape[1]


def _product(y: Tensor, weight: Tensor) -> int:
    return 2 * y.numel() * weight[0].numel()


def _batch_norm(args: Arguments, _: Any) -> tuple[int, int]:
    """In training reads its input once more, for the statistics."""
    x, training = args[0], args[5]
    return (3 if training else 2) * x.numel(), 0


def _batch_norm_backward(args: Arguments, _: Any) -> tuple[int, int]:
    """Reads dy and x for the sums; reads dy, in training x too, and writes dx."""
    dy, training = args[0], args[7]
    return (5 if training else 4) * dy.numel(), 0


def _elementwise(operands: int) -> Count:
    """Reads so many operands of the result's size and writes the result."""
    return lambda _, y: ((operands + 1) * y.numel(), 0)


def _padding(args: Arguments, y: Tensor) -> tuple[int, int]:
    """Reads what is in both and writes y."""
    return min(args[0].numel(), y.numel()) + y.numel(), 0


def _slice_backward(args: Arguments, dx: Tensor) -> tuple[int, int]:
    """Writes zeros, then reads dy and writes it between them."""
    return dx.numel() + 2 * args[0].numel(), 0


_COUNTS: dict[str, Count] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "add_": _elementwise(2),
    "relu_": _elementwise(1),
    "threshold_backward": _elementwise(2),
    "constant_pad_nd": _padding,
    "slice_backward": _slice_backward,
}


def watch(call: Callable[[], object]) -> Watched:
    """What a call dispatches."""
    watched = Watched()
    with watched:
        call()
    return watched
