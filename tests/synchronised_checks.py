"""What ranks of a process group check of norms that share their statistics: the results of one process on all rows.

These run in the children of `processes.run_in_processes`, each on a GPU, or on the CPU, where ``nn.SyncBatchNorm``
itself refuses to run.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from compare import FLOORS, assert_accurate, assert_statistics_accurate, unfused
from recorded_tails import recorded_tails
from samples import SAMPLES, Branch, Sample, build
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fused_resnet
from fused_resnet.functional import Norm, residual_tail
from fused_resnet.strategy import use_strategy

# Images of each rank; one may have none.
PARTS = {1: [5], 2: [2, 3], 4: [2, 1, 0, 2]}
SHARED = {
    "direct": SAMPLES["basic identity"],
    "direct and projection": SAMPLES["basic projection"],
    "projection": SAMPLES["bottleneck identity"],
    "two projections": SAMPLES["bottleneck projection"],
    "projection and a frozen norm": SAMPLES["bottleneck with a frozen shortcut"],
    "no affine parameters": SAMPLES["no affine parameters"],
    "no running statistics": SAMPLES["no running statistics"],
    "cumulative averages": SAMPLES["cumulative averages"],
    "bias": Sample(Branch("projection", "training", bias=True), Branch("direct", "training"), None),
    "bfloat16": SAMPLES["bottleneck projection"].with_dtype(torch.bfloat16),
    "float64": SAMPLES["bottleneck projection"].with_dtype(torch.float64),
}


def own_device(rank: int) -> str:
    """Where a rank computes: on its GPU in a group of GPUs."""
    if dist.get_backend() != "nccl":
        return "cpu"
    torch.cuda.set_device(rank)
    return f"cuda:{rank}"


class Part:
    """A rank's images of a tail whose batch all ranks know."""

    def __init__(self, sample: Sample, rank: int) -> None:
        images = PARTS[dist.get_world_size()]
        torch.manual_seed(0)
        self.whole, self.inputs, self.dy = build(
            replace(sample, shape=(sum(images), *sample.shape[1:])), own_device(rank)
        )
        self.own = copy.deepcopy(self.whole)
        first = sum(images[:rank])
        self.images = slice(first, first + images[rank])

    def shared(self, norm: Norm | None) -> Norm | None:
        return norm if norm is None else replace(norm, process_group=dist.group.WORLD.group_name)

    def run(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The rank's output and gradients; those of parameters are summed over the ranks."""
        inputs = {name: x[self.images].detach().requires_grad_() for name, x in self.inputs.items()}
        branches = [
            None if branch is None else branch.described(inputs[f"{name}.x"])
            for name, branch in self.own.named_children()
        ]
        branches = [
            replace(branch, norm=self.shared(branch.norm)) if branch is not None and branch.norm is not None else branch
            for branch in branches
        ]
        main, shortcut = (*branches, None)[:2]
        y = residual_tail(main, shortcut, activation=self.own.activation)
        y.backward(self.dy[self.images])
        gradients = {n: p.grad for n, p in self.own.named_parameters() if p.grad is not None}
        for gradient in gradients.values():
            dist.all_reduce(gradient)
        return y.detach(), gradients | {name: x.grad for name, x in inputs.items()}


def check_tails(rank: int, backends: Sequence[str]) -> None:
    """Output, gradients and running statistics are as accurate as those of unfused operations on the whole batch."""
    for backend in backends:
        for strategy in ("moments", "library"):
            for name, sample in SHARED.items():
                with fused_resnet.use_backend(backend), use_strategy(strategy):
                    _check_tail(f"{name}, {backend}, {strategy}", Part(sample, rank))


def _check_tail(name: str, part: Part) -> None:
    y, gradients = part.run()
    outputs: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outputs, y.cpu())
    outputs = [output.to(y.device) for output in outputs]
    mask = torch.cat(outputs) > 0 if part.whole.activation == "relu" else None
    eager = unfused(part.whole, part.inputs, part.dy, mask)
    exact = unfused(part.whole, part.inputs, part.dy, mask, torch.float64)
    assert_accurate(f"{name}: output", torch.cat(outputs), eager.output, exact.output)
    for key, gradient in gradients.items():
        of = (slice(None),) if not key.endswith(".x") else (part.images,)
        if gradient.numel() == 0 or key.endswith("conv.bias"):  # ahead of a norm: zero, up to rounding
            continue
        scale = exact.gradients[key].norm().item() if key.endswith(".x") else 0.0
        found = (gradient, eager.gradients[key][of], exact.gradients[key][of])
        assert_accurate(f"{name}: gradient of {key}", *found, scale, part.dy.dtype)
    # Which way the values of a product round that a statistic is of is chance, and averages out.
    floor = FLOORS[part.dy.dtype] / math.sqrt(part.dy.numel() // part.dy.shape[1])
    assert_statistics_accurate(dict(part.own.named_buffers()), eager.buffers, exact.buffers, floor)


def check_one_collective_a_direction(rank: int, backends: Sequence[str]) -> None:
    """For both branches together."""
    for backend in backends:
        part = Part(SAMPLES["bottleneck projection"], rank)
        calls: list[str] = []
        originals = {name: getattr(dist, name) for name in ("all_gather", "all_reduce")}
        for name, original in originals.items():
            setattr(dist, name, _counting(calls, name, original))
        try:
            with fused_resnet.use_backend(backend):
                _, gradients = part.run()
        finally:
            for name, original in originals.items():
                setattr(dist, name, original)
        of_parameters = sum(not name.endswith(".x") for name in gradients)
        assert calls == ["all_gather", "all_reduce"] + ["all_reduce"] * of_parameters


def _counting(calls: list[str], name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return original(*arguments, **options)

    return counted


class Block(nn.Module):
    """All its norms end in the tail."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, channels, 3, 2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential(nn.Conv2d(before, channels, 1, 2, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)) + self.downsample(x))


def network() -> nn.Module:
    """The same in every rank."""
    torch.manual_seed(0)
    return nn.Sequential(Block(3, 16), Block(16, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)).double()


def check_network(rank: int, backends: Sequence[str]) -> None:
    """Under DistributedDataParallel, fused ahead of the conversion or after it, as one process on the whole batch."""
    images, device = PARTS[dist.get_world_size()], own_device(rank)
    first = sum(images[:rank])
    for fuse_first in (True, False):
        alone = network().to(device)
        # On the CPU, DistributedDataParallel refuses to wrap norms that are synchronised already.
        wrapped = DistributedDataParallel(network().to(device), broadcast_buffers=False)
        if fuse_first:
            assert len(fused_resnet.fuse(wrapped).fused) == 2
        shared = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped.module)
        if not fuse_first:
            assert len(fused_resnet.fuse(wrapped).fused) == 2
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (alone, shared)]
        for _ in range(3):
            x, target = torch.randn(sum(images), 3, 16, 16).double(), torch.randint(5, (sum(images),))
            x, target = x.to(device), target.to(device)
            own = slice(first, first + images[rank])
            with recorded_tails() as tails:
                loss = nn.functional.cross_entropy(wrapped(x[own]), target[own], reduction="sum")
                # The gradients of all ranks will be averaged.
                (loss * dist.get_world_size() / len(x)).backward()
            assert len(tails) == 2
            nn.functional.cross_entropy(alone(x), target).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        expected = alone.state_dict()
        for name, tensor in shared.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], msg=name)


def check_norms(rank: int, backends: Sequence[str]) -> None:
    """Norms by themselves share their statistics, too; their outputs are kept, whatever is asked for."""
    images = PARTS[dist.get_world_size()]
    own = slice(sum(images[:rank]), sum(images[: rank + 1]))
    alone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    for parameter in alone.parameters():
        dist.broadcast(parameter.data, 0)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(alone))
    x = torch.randn(sum(images), 3, 4, 4).double()
    dist.broadcast(x, 0)
    for backend in backends:
        with fused_resnet.use_backend(backend):
            model, reference = copy.deepcopy(shared), copy.deepcopy(alone)
            if backend != "reference":
                model, reference = model.float(), reference.float()
            images_ = x.to(next(model.parameters()).dtype)
            fused_resnet.fuse(model, recompute=True)
            with recorded_tails() as tails:
                y = model(images_[own])
                y.square().sum().backward()
            assert len(tails) == 1
            expected = reference(images_)
            expected.square().sum().backward()
            torch.testing.assert_close(y, expected[own], rtol=1e-4, atol=1e-5)
            for parameter, other in zip(model.parameters(), reference.parameters(), strict=True):
                dist.all_reduce(parameter.grad)
                torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-4)


def check_against_pytorch(rank: int, backends: Sequence[str]) -> None:
    """On GPUs: what ``nn.SyncBatchNorm`` computes by itself, rows of different numbers included."""
    device = own_device(rank)
    models = [nn.SyncBatchNorm.convert_sync_batchnorm(network().float().to(device)) for _ in range(2)]
    assert len(fused_resnet.fuse(models[0]).fused) == 2
    wrapped = [DistributedDataParallel(model, device_ids=[rank]) for model in models]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    for _ in range(3):
        x = torch.randn(2 + rank, 3, 16, 16, device=device)
        for model, optimizer in zip(wrapped, optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    expected = models[1].state_dict()
    for name, tensor in models[0].state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name, rtol=1e-3, atol=1e-5)


def check_graph(rank: int, backends: Sequence[str]) -> None:
    """The compiler takes it as one graph, the exchange within the operators."""
    block = nn.SyncBatchNorm.convert_sync_batchnorm(Block(3, 16).double())
    fused_resnet.fuse(block)
    for parameter in block.parameters():
        dist.broadcast(parameter.data, 0)
    expected = copy.deepcopy(block)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.randn(2, 3, 8, 8).double()
        outputs = compiled(x), expected(x)
        torch.testing.assert_close(*outputs)
        for y in outputs:
            y.square().sum().backward()
        for parameter, other in zip(block.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad)
    for buffer, other in zip(block.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, other)


def check_groups(rank: int, backends: Sequence[str]) -> None:
    """Norms share within their own group of processes, and each of a tail's may have another."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    mine = groups[rank // 2]
    for backend in backends:
        with fused_resnet.use_backend(backend):
            torch.manual_seed(0)  # all ranks have the same images
            tail, inputs, _ = build(SAMPLES["basic projection"])
            main, shortcut = (own.described(inputs[f"{name}.x"]) for name, own in tail.named_children())
            main = replace(main, norm=replace(main.norm, process_group=mine.group_name))
            shortcut = replace(shortcut, norm=replace(shortcut.norm, process_group=dist.group.WORLD.group_name))
            y = residual_tail(main, shortcut)
            expected = tail.unfused(inputs).relu()
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def run_checks(rank: int, checks: Sequence[Callable[[int, Sequence[str]], None]], backends: Sequence[str]) -> int:
    for check in checks:
        check(rank, backends)
    return len(checks)


CHECKS = (check_tails, check_one_collective_a_direction, check_network, check_norms)
