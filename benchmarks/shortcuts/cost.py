"""What a network of each option costs: parameters, saved activations, and the time of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..clocks import clock_of, measure
from ..progress import progress
from ..result import Spread
from ..saved_activations import saved_bytes
from .settings import Settings
from .task import Task
from .training import new_network, trainer_of

# The ways' names; the key says whether tails are fused.
WAYS = {False: "eager", True: "fused"}
_BUSY_MS = 200.0  # longer than Python takes to queue a step of the deepest network
_RUNS, _WARM_UP = 9, 2


@dataclass(frozen=True)
class Cost:
    """What a batch of the study costs.

    Attributes:
        parameters: that are trained.
        saved: bytes of activations that a forward pass keeps for its backward, by way.
        step: seconds of a training step, by way.
    """

    parameters: int
    saved: dict[str, int]
    step: dict[str, Spread]


def measure_costs(
    task: Task, settings: Settings, device: torch.device, dtype: torch.dtype, runs: int = _RUNS
) -> dict[tuple[str, int], Cost]:
    """By option and depth. The options of a depth are timed in turn, so that a drift of the machine meets all alike."""
    clock = clock_of(device, _BUSY_MS)
    batch = task.batch(settings.batch_size, torch.Generator().manual_seed(0))
    costs: dict[tuple[str, int], Cost] = {}
    with progress("what a step costs", len(settings.depths)) as advance:
        for depth in settings.depths:
            steps: dict[tuple[str, str], Callable[[], object]] = {}
            counted: dict[str, tuple[int, dict[str, int]]] = {}
            for option in settings.options:
                saved = {}
                for fused, way in WAYS.items():
                    torch.manual_seed(0)
                    network = new_network(option, depth, task, device, fused)
                    saved[way] = saved_bytes(network, batch.images)
                    steps[option, way] = partial(trainer_of(network, settings, dtype).step, batch)
                counted[option] = sum(p.numel() for p in network.parameters() if p.requires_grad), saved
            times = measure(steps, clock, runs=runs, warm_up=_WARM_UP)
            for option, amounts in counted.items():
                costs[option, depth] = Cost(*amounts, {way: times[option, way].device for way in WAYS.values()})
            advance()
    return costs
