"""A tail's launches by a module of kernels, whole and phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from fused_resnet.backends.kernels.branch_arguments import kept
from fused_resnet.backends.kernels.computation import backward_call, forward_call, readable_gradient
from fused_resnet.cost import traffic
from fused_resnet.operation.branches import Branch
from fused_resnet.operation.computation import Gradients, Tail
from fused_resnet.operation.layouts import empty_gradients, empty_output
from fused_resnet.operation.relu_mask import empty_mask

from .tails import every_gradient

FORWARD, BACKWARD = "forward", "backward"
# The names of the module's methods.
FORWARD_PHASES, BACKWARD_PHASES = ("moments", "finish", "apply"), ("reduce", "finish", "apply")
PHASES = (*(f"{FORWARD} {phase}" for phase in FORWARD_PHASES), *(f"{BACKWARD} {phase}" for phase in BACKWARD_PHASES))


class Launches:
    """The launches of a tail's training step, which asks for all gradients.

    Attributes:
        tail: its branches.
        y: the output, which forward writes.
        mask: of its relu, packed, which forward writes, too.
        forward: the module's call. `backward` reads what it keeps: forward runs ahead of that.
    """

    def __init__(self, module: Any, branches: Sequence[Branch], dy: Tensor) -> None:
        self._module, self._dy = module, dy
        self.tail = Tail(tuple(branches), relu=True)
        self.y = empty_output(self.tail.branches)
        self.mask = empty_mask(self.tail.branches)
        self.forward = forward_call(module, self.tail, self.y, keep=True, mask=self.mask)

    @cached_property
    def gradients(self) -> list[Gradients]:
        """The gradients of each branch, which backward writes."""
        each = zip(self.tail.branches, every_gradient(self.tail), strict=True)
        return [empty_gradients(branch, asked, self._dy) for branch, asked in each]

    @cached_property
    def backward(self) -> Any:
        """The module's call."""
        statistics = [kept(branch, self.forward.statistics(i)) for i, branch in enumerate(self.tail.branches)]
        return backward_call(self._module, self.tail, self._read, self.mask, statistics, self.gradients)

    @cached_property
    def _read(self) -> Tensor:
        """The output's gradient as the kernels can read it: itself, or a copy."""
        return readable_gradient(self.tail, self._dy)

    def run_backward(self) -> None:
        """In one launch, with the copy ahead of it where there is one."""
        if self._read is not self._dy:
            self._read.copy_(self._dy)
        self.backward.run()

    @property
    def phases(self) -> dict[str, Callable[[], object]]:
        """A launch each, by the names of `PHASES`."""
        calls = {f"{FORWARD} {phase}": getattr(self.forward, phase) for phase in FORWARD_PHASES}
        return calls | {f"{BACKWARD} {phase}": getattr(self.backward, phase) for phase in BACKWARD_PHASES}

    @property
    def bytes(self) -> dict[str, int]:
        """That each direction has to move, the copy included."""
        copied = 0 if self._read is self._dy else 2 * self._read.nbytes
        backward = traffic.backward(self.tail, every_gradient(self.tail)).bytes
        return {FORWARD: traffic.forward(self.tail, keep=True).bytes, BACKWARD: backward + copied}
