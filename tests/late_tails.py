"""A tail whose inputs come late: what tests of streams and of CUDA graphs run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.tail_shapes import RESNET50
from benchmarks.tails import Mode, Tail, incoming_gradient

MODES = (Mode("training", True, True), Mode("frozen norms", False, True), Mode("eval", False, False))


@dataclass(frozen=True)
class LateTail:
    """A tail in a mode, with its inputs and its output's gradient."""

    tail: Tail
    mode: Mode
    inputs: tuple[Tensor, Tensor]
    dy: Tensor

    @classmethod
    def of(cls, mode: Mode, device: str, dtype: torch.dtype, batch: int, size: int) -> LateTail:
        """Two projections, as in a network's first block."""
        torch.manual_seed(0)
        tail = Tail(RESNET50[0].shrunk(batch, size, 1), dtype).to(device).train(mode.training)
        x, before = tail.inputs(device, dtype)
        with torch.no_grad():
            dy = incoming_gradient(tail.sum(x, before))
        return cls(tail, mode, (x.requires_grad_(mode.backward), before.requires_grad_(mode.backward)), dy)

    def copied(self) -> Tail:
        """The tail, whose running statistics may be updated."""
        return copy.deepcopy(self.tail)

    def results(self, tail: Tail) -> dict[str, Tensor]:
        """Output, running statistics and gradients of a copy of the tail, fused."""
        with torch.set_grad_enabled(self.mode.backward):
            y = tail.fused(*self.inputs)
            gradients: Mapping[str, Tensor] = tail.gradients(y, self.inputs, self.dy) if self.mode.backward else {}
        named = {f"gradient of {name}": gradient for name, gradient in gradients.items()}
        return {"output": y.detach(), **dict(tail.named_buffers()), **named}

    def zeroed(self) -> LateTail:
        """The same with zeros in place of what is given from outside."""
        x, before = (torch.zeros_like(t).requires_grad_(t.requires_grad) for t in self.inputs)
        return LateTail(self.tail, self.mode, (x, before), torch.zeros_like(self.dy))

    @torch.no_grad()
    def fill(self, other: LateTail) -> None:
        """Copies what is given to another one from outside."""
        for ours, theirs in zip((*self.inputs, self.dy), (*other.inputs, other.dy), strict=True):
            ours.copy_(theirs)
