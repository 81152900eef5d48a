"""The tails of ResNet-50 and ResNet-18 at their real sizes: a table, modules, and the bytes that must be moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_resnet import residual_tail, traffic
from fused_resnet.branches import Branch, Direct, Projection
from fused_resnet.modules import branch_of
from fused_resnet.strategy import Strategy, StrategyChoice
from fused_resnet.tail import Needs, operands_of
from fused_resnet.tail import Tail as DescribedTail

BATCH = 256


@dataclass(frozen=True)
class TailShape:
    """One kind of tail of a network.

    Attributes:
        block: its first block, in torchvision's names.
        blocks: how many blocks of the network have it.
        size: height and width of the output.
        inner: input channels of the projection that ends the main branch; None where a 3x3 convolution ends it, or
            where the 1x1 convolution is left to cuDNN.
        channels: of the output.
        before: channels of the block's input where the shortcut is a projection, None where it is the identity.
        stride: of that projection.
    """

    network: str
    block: str
    blocks: int
    size: int
    inner: int | None
    channels: int
    before: int | None = None
    stride: int = 1
    batch: int = BATCH

    @property
    def name(self) -> str:
        main = "direct" if self.inner is None else "projection"
        return f"{self.network} {self.block} {main}+{self.shortcut}"

    @property
    def shortcut(self) -> str:
        return "identity" if self.before is None else "projection"

    @property
    def stage(self) -> str:
        return self.block.partition(".")[0]

    @property
    def rows(self) -> int:
        return self.batch * self.size**2

    @property
    def projections(self) -> list[int]:
        """Input channels of each projection, the main branch's first."""
        return [k for k in (self.inner, self.before) if k is not None]

    def shrunk(self, batch: int, size: int, divisor: int) -> TailShape:
        """The same kind of tail, small enough for a rehearsal."""
        inner, before = (None if k is None else max(8, k // divisor) for k in (self.inner, self.before))
        channels = max(8, self.channels // divisor)
        return replace(self, batch=batch, size=size, inner=inner, channels=channels, before=before)


RESNET50 = (
    TailShape("resnet50", "layer1.0", 1, 56, 64, 256, before=64),
    TailShape("resnet50", "layer1.1", 2, 56, 64, 256),
    TailShape("resnet50", "layer2.0", 1, 28, 128, 512, before=256, stride=2),
    TailShape("resnet50", "layer2.1", 3, 28, 128, 512),
    TailShape("resnet50", "layer3.0", 1, 14, 256, 1024, before=512, stride=2),
    TailShape("resnet50", "layer3.1", 5, 14, 256, 1024),
    TailShape("resnet50", "layer4.0", 1, 7, 512, 2048, before=1024, stride=2),
    TailShape("resnet50", "layer4.1", 2, 7, 512, 2048),
)
RESNET18 = (
    TailShape("resnet18", "layer1.0", 2, 56, None, 64),
    TailShape("resnet18", "layer2.0", 1, 28, None, 128, before=64, stride=2),
    TailShape("resnet18", "layer2.1", 1, 28, None, 128),
    TailShape("resnet18", "layer3.0", 1, 14, None, 256, before=128, stride=2),
    TailShape("resnet18", "layer3.1", 1, 14, None, 256),
    TailShape("resnet18", "layer4.0", 1, 7, None, 512, before=256, stride=2),
    TailShape("resnet18", "layer4.1", 1, 7, None, 512),
)


def by_importance() -> list[TailShape]:
    """All tails, those on the largest tensors first; of each stage, ResNet-50's with conv3 inside come ahead."""
    apart = [replace(shape, inner=None) for shape in RESNET50]
    return sorted([*RESNET50, *apart, *RESNET18], key=lambda shape: shape.stage)


def counted_bytes(
    shape: TailShape, training: bool, strategies: Sequence[Strategy], element_size: int, backward: bool = False
) -> int:
    """Bytes that the kernels must move, each tensor read or written whole.

    Weights, vectors and partial sums are left out.

    `strategies` are those of `shape.projections`; in evaluation they make no difference. With `backward`, what both
    directions move, where all gradients are asked for.
    """
    tail = _described(shape, training, strategies, {2: torch.bfloat16, 4: torch.float32}[element_size])
    needs = [Needs(*(tensor is not None for tensor in operands_of(branch))) for branch in tail.branches]
    return traffic.forward(tail).bytes + (traffic.backward(tail, needs).bytes if backward else 0)


def _described(shape: TailShape, training: bool, strategies: Sequence[Strategy], dtype: torch.dtype) -> DescribedTail:
    """The tail as the package's own formulas take it; its tensors have sizes alone."""
    with torch.device("meta"):
        tail = Tail(shape, dtype).train(training)
    branches = tail.branches(*tail.inputs("meta", dtype))
    each: list[StrategyChoice] = ["auto"] * len(branches)
    if training:
        projections = [i for i, branch in enumerate(branches) if isinstance(branch, Projection)]
        for i, strategy in zip(projections, strategies, strict=True):
            each[i] = strategy
    return DescribedTail(branches, tuple(each), relu=True)


class Tail(nn.Module):
    """A tail as standard modules, which it calls, or describes to `residual_tail`."""

    def __init__(self, shape: TailShape, dtype: torch.dtype) -> None:
        super().__init__()
        c = shape.channels
        self.shape = shape
        self.conv = None if shape.inner is None else _projection(shape.inner, c, 1, dtype)
        self.norm = _norm(c)
        self.shortcut_conv = None if shape.before is None else _projection(shape.before, c, shape.stride, dtype)
        self.shortcut_norm = None if shape.before is None else _norm(c)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """The unfused operations, in place where torchvision's blocks are."""
        return F.relu(self.sum(x, before), inplace=True)

    def sum(self, x: Tensor, before: Tensor) -> Tensor:
        """The unfused operations ahead of the relu."""
        y: Tensor = self.norm(x if self.conv is None else self.conv(x))
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            before = self.shortcut_norm(self.shortcut_conv(before))
        y += before
        return y

    def fused(self, x: Tensor, before: Tensor) -> Tensor:
        """One operation, the projections included."""
        return residual_tail(*self.branches(x, before))

    def branches(self, x: Tensor, before: Tensor) -> tuple[Branch, Branch]:
        """What `fused` computes."""
        return branch_of(x, self.conv, self.norm), branch_of(before, self.shortcut_conv, self.shortcut_norm)

    def fused_behind_conv(self, x: Tensor, before: Tensor) -> Tensor:
        """The main branch's projection as a convolution of its own, the rest as one operation."""
        assert self.conv is not None
        main = Direct(self.conv(x), branch_of(x, None, self.norm).norm)
        return residual_tail(main, branch_of(before, self.shortcut_conv, self.shortcut_norm))

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
