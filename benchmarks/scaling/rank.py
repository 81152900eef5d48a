"""One process of those that ``torchrun`` starts: trains fused and unfused networks in turn on a constant batch.

Writes the seconds of each round's steps, between barriers, to a file of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fused_resnet

from .. import options
from ..memory_formats import in_format
from ..trainer import Trainer, random_batch
from .ranks import SIDES, SYNCHRONISED, Training, training_of


def main() -> None:
    """Joins the group, trains, writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--dtype", choices=options.DTYPES, required=True)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    dist.init_process_group("nccl" if arguments.device == "cuda" else "gloo")
    try:
        seconds = _train(arguments)
        path = arguments.folder / f"rank-{dist.get_rank()}.json"
        path.write_text(json.dumps(seconds), encoding="utf-8")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _train(arguments: argparse.Namespace) -> dict[str, list[float]]:
    device = torch.device("cpu")
    if arguments.device == "cuda":
        device = torch.device("cuda", dist.get_rank())
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    plan, dtype = training_of(device, arguments.quick), options.DTYPES[arguments.dtype]
    sides = [side for side in SIDES if side != SYNCHRONISED or device.type == "cpu"]
    steps = {side: _step(plan, side, device, dtype) for side in sides}
    seconds: dict[str, list[float]] = {side: [] for side in steps}
    for turn in range(-plan.warm_up, plan.rounds):
        for side, step in steps.items():
            elapsed = _seconds(step, device)
            if turn >= 0:
                seconds[side].append(elapsed)
    return seconds


def _step(plan: Training, side: str, device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """A training step of a network of its own."""
    torch.manual_seed(0)
    model = _network(plan, side != "eager", device)
    wrapped = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    if side == SYNCHRONISED:
        _synchronise_tails(model)
    trainer = Trainer(model, dtype, forward=wrapped)
    batch = random_batch(plan.batch, plan.image_size, plan.classes, device.type, seed=1 + dist.get_rank())
    trainer.step(batch)
    if not all(math.isfinite(p.sum().item()) for p in model.parameters()):
        raise RuntimeError(f"{side}: a parameter is not finite after one step")
    return lambda: trainer.step(batch)


def _network(plan: Training, fused: bool, device: torch.device) -> nn.Module:
    """Its norms are synchronised on GPUs; for CPUs PyTorch has none."""
    model: nn.Module = getattr(fused_resnet.models, plan.model)(fused=False, shortcut="B", num_classes=plan.classes)
    model = in_format(model.to(device))
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if fused:
        fused_resnet.fuse(model, strict=True)
    return model


def _synchronise_tails(model: nn.Module) -> None:
    """Norms within fused tails share statistics on a CPU, too, where DistributedDataParallel refuses to wrap them."""
    for block in [module for module in model.modules() if isinstance(module, fused_resnet.nn.BasicBlock)]:
        for name in ("bn2", "downsample"):
            own = getattr(block, name)
            setattr(block, name, nn.SyncBatchNorm.convert_sync_batchnorm(own))


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """How long one step takes, from when all processes begin until this one's device is done."""
    dist.barrier()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
