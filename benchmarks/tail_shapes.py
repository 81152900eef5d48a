"""The tails of the ResNets at their real sizes: ImageNet's nets on 224x224 images, CIFAR's on 32x32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

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
        before: channels of the block's input where the shortcut changes the shape, None where it is the identity.
        stride: of that shortcut.
        option: how it changes the shape: by a projection ("B") or by zero channels ("A").
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
    option: Literal["A", "B"] = "B"

    @property
    def name(self) -> str:
        return f"{self.network} {self.block} {self.kind}"

    @property
    def kind(self) -> str:
        return f"{'direct' if self.inner is None else 'projection'}+{self.shortcut}"

    @property
    def shortcut(self) -> str:
        if self.before is None:
            return "identity"
        return "projection" if self.option == "B" else "padding"

    @property
    def rows(self) -> int:
        return self.batch * self.size**2

    @property
    def output(self) -> str:
        """An image of it."""
        return f"{self.channels} x {self.size} x {self.size}"

    @property
    def projections(self) -> list[int]:
        """Input channels of each projection, the main branch's first."""
        shortcut = self.before if self.shortcut == "projection" else None
        return [k for k in (self.inner, shortcut) if k is not None]

    def shrunk(self, batch: int, size: int, divisor: int) -> TailShape:
        """The same kind of tail, small enough for a rehearsal."""
        inner, before = (None if k is None else max(8, k // divisor) for k in (self.inner, self.before))
        channels = max(16 if self.shortcut == "padding" else 8, self.channels // divisor)
        return replace(self, batch=batch, size=size, inner=inner, channels=channels, before=before)


@dataclass(frozen=True)
class DistinctTail:
    """A tail, as the first of its networks has it, and how many blocks of each network have it."""

    shape: TailShape
    blocks: dict[str, int]

    @property
    def name(self) -> str:
        """Of the rows of results."""
        return f"{self.shape.network} {self.shape.block}"

    @property
    def counts(self) -> str:
        """How many blocks of each network have it."""
        return ", ".join(f"{network} {count}" for network, count in self.blocks.items())


def _bottleneck(network: str, depths: tuple[int, ...], width: int = 64) -> tuple[TailShape, ...]:
    """`width`: of the first stage's 3x3 convolutions."""
    tails = []
    for i, depth in enumerate(depths):
        size, inner, channels = 56 >> i, width << i, 256 << i
        before, stride = (64, 1) if i == 0 else (channels // 2, 2)
        tails.append(TailShape(network, f"layer{i + 1}.0", 1, size, inner, channels, before, stride))
        tails.append(TailShape(network, f"layer{i + 1}.1", depth - 1, size, inner, channels))
    return tuple(tails)


def _basic(
    network: str, depths: tuple[int, ...], width: int = 64, size: int = 56, option: Literal["A", "B"] = "B"
) -> tuple[TailShape, ...]:
    """`width` and `size`: channels, height and width of the first stage."""
    tails = [TailShape(network, "layer1.0", depths[0], size, None, width)]
    for i, depth in enumerate(depths[1:], 1):
        identity = TailShape(network, f"layer{i + 1}.1", depth - 1, size >> i, None, width << i)
        first = replace(identity, block=f"layer{i + 1}.0", blocks=1, before=width << i - 1, stride=2, option=option)
        tails += [first, identity]
    return tuple(tails)


def _cifar() -> Iterator[tuple[TailShape, ...]]:
    """With option A, as in the paper, and with B."""
    for option, ending in (("A", ""), ("B", "-B")):
        for depth in (20, 32, 44, 56, 110):
            blocks = (depth - 2) // 6
            yield _basic(f"resnet{depth}{ending}", (blocks,) * 3, 16, 32, "A" if option == "A" else "B")


RESNET50 = _bottleneck("resnet50", (3, 4, 6, 3))
RESNET18 = _basic("resnet18", (2, 2, 2, 2))
# Every network's tails, by the names of `fused_resnet.models`; those that are most used come first.
NETWORKS = {
    tails[0].network: tails
    for tails in (
        RESNET50,
        _bottleneck("resnet101", (3, 4, 23, 3)),
        _bottleneck("resnet152", (3, 8, 36, 3)),
        RESNET18,
        _basic("resnet34", (3, 4, 6, 3)),
        _bottleneck("wide_resnet50_2", (3, 4, 6, 3), 128),
        _bottleneck("wide_resnet101_2", (3, 4, 23, 3), 128),
        *_cifar(),
    )
}


def distinct(networks: Iterable[str], batch: int = BATCH) -> list[DistinctTail]:
    """Every tail of the networks once, in their order."""
    found: dict[TailShape, DistinctTail] = {}
    for network in networks:
        for shape in NETWORKS[network]:
            anonymous = replace(shape, network="", block="", blocks=0)
            tail = found.setdefault(anonymous, DistinctTail(replace(shape, batch=batch), {}))
            tail.blocks[network] = tail.blocks.get(network, 0) + shape.blocks
    return list(found.values())


def small_of_each_kind(tails: Iterable[DistinctTail]) -> list[DistinctTail]:
    """The first tail of each kind, small enough for a rehearsal."""
    kinds: dict[str, DistinctTail] = {}
    for tail in tails:
        kinds.setdefault(tail.shape.kind, replace(tail, shape=tail.shape.shrunk(2, 7, 16)))
    return list(kinds.values())
