"""What each process trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Training:
    """A network of `fused_resnet.models`, a batch a process, and how many steps are timed."""

    model: str
    batch: int
    image_size: int
    classes: int
    rounds: int
    warm_up: int


CPU = Training("resnet20", batch=16, image_size=32, classes=10, rounds=15, warm_up=3)
GPU = Training("resnet50", batch=64, image_size=224, classes=1000, rounds=30, warm_up=5)
QUICK = Training("resnet20", batch=2, image_size=16, classes=10, rounds=2, warm_up=1)
