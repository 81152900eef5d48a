"""How much the study runs: on a CPU, on a GPU, and for a smoke run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .networks import OPTIONS


@dataclass(frozen=True)
class Settings:
    """What is trained, on how much, how long.

    Attributes:
        options: names among `networks.OPTIONS`.
        depths: of the CIFAR ResNets, 6n + 2.
        seeds: so many runs of each option and depth. A seed draws the training images and the order and shifts of the
            batches, the same for all options, and the weights.
        steps: of SGD with Nesterov's momentum; the learning rate rises linearly over the first tenth of them and then
            falls linearly to zero.
        train_images, test_images: at most so many, None for all; training images are drawn anew for each seed from what
            is not for testing, test images are the same for all.
        probe: training images whose gradients are taken.
    """

    options: tuple[str, ...] = tuple(OPTIONS)
    depths: tuple[int, ...] = (8, 20, 32)
    seeds: int = 10
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    train_images: int | None = 300
    test_images: int | None = 4000
    probe: int = 256


CPU = Settings()
GPU = replace(CPU, depths=(20, 56, 110), steps=3000, batch_size=128, train_images=None, test_images=None)
QUICK = replace(CPU, depths=(8,), seeds=2, steps=4, batch_size=16, train_images=40, test_images=60, probe=16)
