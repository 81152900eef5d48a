"""The ResNets' tails as modules, in the modes that they are run in, and what the kernels must move for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_resnet import residual_tail
from fused_resnet.conversion.modules import branch_of
from fused_resnet.cost import traffic
from fused_resnet.operation.branches import Branch, ZeroPad
from fused_resnet.operation.computation import Needs, operands_of
from fused_resnet.operation.computation import Tail as DescribedTail

from .tail_shapes import TailShape

# A share of the sum's root mean square: several times what rounding to bfloat16 on the way moves it by.
_KINK = 0.125


@dataclass(frozen=True)
class Mode:
    """How a tail is run.

    Attributes:
        training: norms take the batch's statistics in place of the running ones.
        backward: backward follows, to both inputs and all parameters.
    """

    name: str
    training: bool
    backward: bool

    @property
    def grad_enabled(self) -> bool:
        """In training, forward keeps what backward needs also where that does not follow."""
        return self.training or self.backward


MODES = {
    mode.name: mode
    for mode in (
        Mode("training", training=True, backward=False),
        Mode("training+backward", training=True, backward=True),
        Mode("eval", training=False, backward=False),
        Mode("eval+backward", training=False, backward=True),
    )
}


def incoming_gradient(z: Tensor) -> Tensor:
    """A random gradient of relu(z), like z, and 0 wherever z is so near to 0 that rounding decides the relu's mask.

    One element that flips outweighs the rounding errors of all others.
    """
    return torch.randn_like(z).masked_fill_(z.abs() < _KINK * z.square().mean().sqrt(), 0)


def counted_bytes(shape: TailShape, training: bool, element_size: int, backward: bool = False) -> int:
    """Bytes that the kernels must move, each tensor read or written whole.

    Weights, vectors and partial sums are left out. With `backward`, what both directions move, where all gradients are
    asked for.
    """
    tail = described(shape, training, {2: torch.bfloat16, 4: torch.float32}[element_size])
    forward = traffic.forward(tail, keep=backward).bytes
    return forward + (traffic.backward(tail, every_gradient(tail)).bytes if backward else 0)


def described(shape: TailShape, training: bool, dtype: torch.dtype) -> DescribedTail:
    """The tail as the package's own formulas take it; its tensors have sizes alone."""
    with torch.device("meta"):
        tail = Tail(shape, dtype).train(training)
    return DescribedTail(tail.branches(*tail.inputs("meta", dtype)), relu=True)


def every_gradient(tail: DescribedTail) -> list[Needs]:
    """That all gradients are asked for."""
    return [Needs(*(tensor is not None for tensor in operands_of(branch))) for branch in tail.branches]


class Tail(nn.Module):
    """A tail as standard modules, which it calls, or describes to `residual_tail`."""

    def __init__(self, shape: TailShape, dtype: torch.dtype) -> None:
        super().__init__()
        c = shape.channels
        self.shape = shape
        self.conv = None if shape.inner is None else _projection(shape.inner, c, 1, dtype)
        self.norm = _norm(c)
        k = shape.before if shape.shortcut == "projection" else None
        self.shortcut_conv = None if k is None else _projection(k, c, shape.stride, dtype)
        self.shortcut_norm = None if k is None else _norm(c)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """The unfused operations, in place where torchvision's blocks are."""
        return F.relu(self.sum(x, before), inplace=True)

    def sum(self, x: Tensor, before: Tensor) -> Tensor:
        """The unfused operations ahead of the relu."""
        y: Tensor = self.norm(x if self.conv is None else self.conv(x))
        y += self._shortcut(before)
        return y

    def _shortcut(self, before: Tensor) -> Tensor:
        shape = self.shape
        if shape.shortcut == "padding":
            subsampled = before[:, :, :: shape.stride, :: shape.stride]
            return F.pad(subsampled, (0, 0, 0, 0, 0, shape.channels - before.shape[1]))
        if self.shortcut_conv is None or self.shortcut_norm is None:
            return before
        projected: Tensor = self.shortcut_norm(self.shortcut_conv(before))
        return projected

    def fused(self, x: Tensor, before: Tensor) -> Tensor:
        """One operation, the projections included."""
        return residual_tail(*self.branches(x, before))

    def branches(self, x: Tensor, before: Tensor) -> tuple[Branch, Branch]:
        """What `fused` computes."""
        return branch_of(x, self.conv, self.norm), self._shortcut_branch(before)

    def _shortcut_branch(self, before: Tensor) -> Branch:
        if self.shape.shortcut == "padding":
            return ZeroPad(before, self.shape.channels, self.shape.stride)
        return branch_of(before, self.shortcut_conv, self.shortcut_norm)

    def gradients(self, y: Tensor, inputs: tuple[Tensor, Tensor], dy: Tensor) -> dict[str, Tensor]:
        """Backward from the output's gradient: the gradients of both inputs and of every parameter, by name."""
        sources = {**dict(zip(("x", "before"), inputs, strict=True)), **dict(self.named_parameters())}
        return dict(zip(sources, torch.autograd.grad(y, list(sources.values()), dy), strict=True))

    def inputs(self, device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Random input of both branches, channels_last; the mean is not zero, as behind a relu."""
        shape, size = self.shape, self.shape.size
        shapes = [
            (shape.batch, shape.inner or shape.channels, size, size),
            (shape.batch, shape.before or shape.channels, size * shape.stride, size * shape.stride),
        ]
        x, before = (torch.randn(s, device=device, dtype=dtype).add_(0.5) for s in shapes)
        return _channels_last(x), _channels_last(before)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _projection(channels: int, out: int, stride: int, dtype: torch.dtype) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 1, stride, bias=False, dtype=dtype)


def _norm(channels: int) -> nn.BatchNorm2d:
    """In float32, as under autocast; nothing in it is 0 or 1, which could hide a mistake."""
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for vector in (norm.weight, norm.running_var):
        nn.init.uniform_(vector, 0.5, 1.5)
    for vector in (norm.bias, norm.running_mean):
        nn.init.normal_(vector, std=0.3)
    return norm
