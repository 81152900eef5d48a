"""Times whole training steps of ResNet-50 on one side: fused, eager or by torch.compile.

A process of the stage ``train``. Nothing is timed unless the first step's loss is that of the unfused network.
"""

from __future__ import annotations

import argparse
import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_resnet
from fused_resnet.models import ResNet, resnet50
from fused_resnet.nn import Bottleneck

from ..clocks import consecutive
from ..peak import peak_bytes
from ..timing import Spread
from .record import report

EAGER, FUSED, COMPILED = "eager", "fused", "torch.compile"
# Of the first step's loss from that of the unfused network.
TOLERANCE = 1e-2
# Small enough that a few steps on one batch of noise lead to the same loss whatever the rounding.
LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Plan:
    """What is trained on what, and how long: the losses of the first steps are kept, the others are timed."""

    device: str
    batch: int
    size: int
    classes: int
    first_steps: int
    timed_steps: int


def plan(batch: int, rehearse: bool) -> Plan:
    if rehearse:
        return Plan("cpu", batch, size=64, classes=10, first_steps=5, timed_steps=2)
    return Plan("cuda", batch, size=224, classes=1000, first_steps=5, timed_steps=20)


def network(rehearse: bool) -> tuple[str, nn.Module]:
    """ResNet-50 with the standard operations, and whose it is; for a rehearsal one block of each kind, narrow."""
    if rehearse:
        return "fused_resnet, small", ResNet(Bottleneck, (1, 1, 1, 1), width=16, num_classes=10, fused=False)
    try:
        made: nn.Module = importlib.import_module("torchvision").models.resnet50()
    except (ImportError, RuntimeError):  # not there, or built for another torch
        return "fused_resnet", resnet50(fused=False)
    return "torchvision", made


class Trainer:
    """A network with a batch that it learns by heart."""

    def __init__(self, model: Callable[[Tensor], Tensor], network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """`model` computes the network, whose parameters are trained."""
        self._model, self._images, self._labels = model, images, labels
        self._optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9)

    def step(self) -> Tensor:
        """Forward, loss, backward and an optimizer's step; the loss."""
        self._optimizer.zero_grad()
        loss = loss_of(self._model, self._images, self._labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def forget_gradients(self) -> None:
        self._optimizer.zero_grad()


def loss_of(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        return F.cross_entropy(model(images), labels)


def run(side: str, chosen: Plan, made: nn.Module) -> dict[str, Any]:
    """Results of a side. Raises RuntimeError where it does not compute what the unfused network does."""
    made = made.to(chosen.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images, labels = _batch(chosen)
    with torch.no_grad():
        expected = float(loss_of(copy.deepcopy(made), images, labels))
    trainer = Trainer(model_of(side, made), made, images, labels)
    losses = [float(trainer.step())]
    if not abs(losses[0] - expected) <= TOLERANCE * abs(expected):
        raise RuntimeError(f"the first loss is {losses[0]}, of the unfused network {expected}")
    losses += [float(trainer.step()) for _ in range(chosen.first_steps - 1)]
    seconds = Spread.of(consecutive(trainer.step, chosen.timed_steps, chosen.device))
    trainer.forget_gradients()
    held = torch.cuda.memory_allocated() if chosen.device == "cuda" else None
    peak = peak_bytes(trainer.step, chosen.device)
    return {**_times(seconds, chosen.batch), "held_bytes": held, "peak_bytes": peak, "losses": losses}


def _batch(chosen: Plan) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    images = torch.randn(chosen.batch, 3, chosen.size, chosen.size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(chosen.classes, (chosen.batch,))
    return images.to(chosen.device), labels.to(chosen.device)


def model_of(side: str, made: nn.Module) -> Callable[[Tensor], Tensor]:
    """How the side computes the network, which it may change in place. Raises RuntimeError where a tail is refused."""
    if side == COMPILED:
        # The sizes do not change.
        return torch.compile(made, dynamic=False)
    if side == FUSED:
        fusing = fused_resnet.fuse(made)
        if fusing.refused or not fusing.fused:
            raise RuntimeError(f"{len(fusing.fused)} tails are fused; refused: {dict(fusing.refused)}")
    return made


def _times(seconds: Spread, batch: int) -> dict[str, float]:
    return {
        "ms": round(seconds.median * 1e3, 3),
        "ms_lower": round(seconds.lower * 1e3, 3),
        "ms_upper": round(seconds.upper * 1e3, 3),
        "images_s": round(batch / seconds.median, 1),
    }


def attempt(side: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The results, or why there are none. What is beyond this project is no "problem": memory, and the compiler."""
    try:
        return compute()
    except torch.cuda.OutOfMemoryError as error:
        return {"not_timed": f"out of memory: {str(error)[:300]}"}
    except Exception as error:
        what = f"{type(error).__name__}: {str(error)[:500]}"
        return {"not_timed": what} if side == COMPILED else {"problem": what}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=(EAGER, FUSED, COMPILED), required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    # As whoever trains a network of fixed sizes has it.
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    source, made = network(arguments.rehearse)
    with fused_resnet.use_backend("emulated" if arguments.rehearse else "cuda"):
        compute = partial(run, arguments.side, plan(arguments.batch, arguments.rehearse), made)
        results = attempt(arguments.side, compute)
    report(side=arguments.side, batch=arguments.batch, network=source, **results)


if __name__ == "__main__":
    main()
