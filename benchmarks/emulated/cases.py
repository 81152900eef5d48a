"""Which tails are counted, in which modes, and the processes that count them: the emulator has one thread."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tail_shapes import NETWORKS, RESNET50, TailShape, distinct

# Two whole tiles of rows: bytes of activations grow with the rows, and the emulator takes its time.
BATCH, SIZE = 4, 8
TRAINING, EVALUATION = "training", "evaluation"
# Output channels of what --quick counts; all of it has fewer than a tile.
_QUICK_CHANNELS = 256


@dataclass(frozen=True)
class Case:
    """A tail in a mode, "training" or "evaluation"."""

    shape: TailShape
    mode: str

    @property
    def training(self) -> bool:
        """Whether norms take the batch's statistics."""
        return self.mode != EVALUATION

    @property
    def effort(self) -> int:
        """What the emulator has most work with: products of matrices of channels, without tiles."""
        matrices = sum(k * k for k in self.shape.projections) * self.training
        return self.shape.channels * (matrices + self.shape.rows * sum(self.shape.projections))


def cases(quick: bool) -> list[Case]:
    """Each distinct tail, and ResNet-50's with the last convolution left out; in each mode."""
    apart = [replace(shape, inner=None) for shape in RESNET50]
    shapes = [*(tail.shape for tail in distinct(NETWORKS)), *apart]
    small = [replace(shape, batch=BATCH, size=SIZE) for shape in shapes]
    return [Case(shape, mode) for shape in small if _chosen(shape, quick) for mode in (TRAINING, EVALUATION)]


def _chosen(shape: TailShape, quick: bool) -> bool:
    return not quick or (shape.channels <= _QUICK_CHANNELS and shape.block.startswith("layer1"))
