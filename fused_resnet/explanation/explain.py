"""`explain` on whole models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from .. import backend
from ..fusion import fuse
from ..fusion.block import FusedBlock
from ..nn import ResidualBlock
from .recording import recorded
from .result import Explanation, TailExplanation


def explain(model: nn.Module, *inputs: Any, values: bool = False) -> Explanation:
    """Tells what each residual tail of ``model(*inputs)`` takes: backend, kernels, strategies, bytes, operations.

    Where a tail does not run as one operation, or not by the kernels, it tells why. Grad mode, autocast, ``train()``
    and ``eval()``, backend and strategy are those of the moment. A copy of the model runs on shapes alone: nothing is
    computed, no memory is needed, and parameters, statistics, gradients, hooks and generators stay as they are. A
    forward that needs values (such as one that branches on ``x.sum() > 0``) is run on a copy of the model and of the
    inputs instead, which takes the memory and the time of a call. Hooks of the model's run, as in any call.

    What moments cost in accuracy depends on the values: ask for these to see it (`BranchExplanation.cancellation`).

    Args:
        model: any module, fused or not.
        inputs: of the call; only tensors' shapes, dtypes, devices and layouts matter, unless ``values`` is set.
        values: run a copy of the model on copies of the inputs in any case.

    Returns:
        A list of tails with totals; ``str()`` gives a table, ``dataclasses.asdict`` plain data.

    Raises:
        TypeError: the model is no module.
        Exception: what the call itself raises, or what a model raises that cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    tails = recorded(model, inputs, values)
    tile = next((backend.tile_of(tail.backend) for tail in tails if tail.backend not in (None, "reference")), None)
    if tails or any(isinstance(module, (ResidualBlock, FusedBlock)) for module in model.modules()):
        return Explanation(tails, tile)
    return Explanation(list(_not_fused(model)), note="not fused: call fused_resnet.fuse(model)")


def _not_fused(model: nn.Module) -> Iterator[TailExplanation]:
    """What `fuse` would find."""
    report = fuse(model, dry_run=True)
    for block, what in report.fused.items():
        yield TailExplanation(block, f"fuse would take {what}")
    for block, why in report.refused.items():
        yield TailExplanation(block, f"fuse would leave it: {why}")
