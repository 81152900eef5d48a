"""How much the demo does: on a CPU, on a GPU, and for a smoke run."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """Sizes of everything that is run.

    Attributes:
        depth: layers of the CIFAR ResNet that learns.
        image_limit: use at most so many images of the data set; None for all.
        epochs, learning_batch_size, learning_rate: of its training; the rate falls linearly to zero.
        agreement_steps: training steps in float64 whose losses must agree.
        batch_size, image_size: what the ImageNet networks are timed on and their saved activations counted.
        pairs: timed pairs of a whole network; half as many of a single block.
        warm_up: untimed pairs ahead of them.
        accuracy_batch_size: images of ``image_size`` on which the networks are compared with float64.
    """

    depth: int = 14
    image_limit: int | None = None
    epochs: int = 6
    learning_batch_size: int = 128
    learning_rate: float = 0.1
    agreement_steps: int = 5
    batch_size: int = 16
    image_size: int = 224
    pairs: int = 14
    warm_up: int = 2
    accuracy_batch_size: int = 4

    @property
    def block_pairs(self) -> int:
        return max(2, self.pairs // 2)


CPU = Settings()
GPU = replace(CPU, epochs=20, batch_size=64, pairs=40, warm_up=5, accuracy_batch_size=16)
QUICK = Settings(
    depth=8,
    image_limit=160,
    epochs=1,
    learning_batch_size=32,
    batch_size=2,
    image_size=64,
    pairs=2,
    warm_up=1,
    accuracy_batch_size=2,
)
