"""What ranks of a process group check of a fused network: it ends up where the unfused one does under the same wrapper.

These run in the children of `processes.run_in_processes`, on the CPU.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import torch
import torch.distributed as dist
from recorded_tails import recorded_tails
from small_nets import NETS, TAILS, Nets, assert_alike, assert_close, make_nets
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from user_blocks import Block

import fused_resnet
from fused_resnet.nn import ResidualBlock


def each_net(backends: list[str]) -> Iterator[Nets]:
    """Small networks on each backend, the same in every process."""
    for backend in backends:
        for name in NETS:
            torch.manual_seed(0)
            with fused_resnet.use_backend(backend):
                yield make_nets(name, torch.float64 if backend == "reference" else torch.float32, "cpu")


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, (Block, ResidualBlock))]


def train(nets: Nets, model: nn.Module, rank: int, steps: int = 2, parts: int = 1) -> None:
    """Steps on batches of the rank's own, each of so many parts, of which all but the last are not synchronised."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(parts):
            quiet = model.no_sync() if part < parts - 1 else nullcontext()
            with quiet:
                nets.loss(model, seed=100 * rank + parts * step + part).backward()
        optimizer.step()


def assert_same_in_all_ranks(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(found, tensor.detach().contiguous())
        assert all(other.equal(found[0]) for other in found), name


# DistributedDataParallel


DDP_OPTIONS = (
    {},
    {"gradient_as_bucket_view": True},
    {"static_graph": True, "broadcast_buffers": False},
    {"find_unused_parameters": True, "bucket_cap_mb": 0.001},
)


def check_ddp(rank: int, backends: list[str]) -> None:
    """Under each set of options, gradients of several parts gathered before they are averaged."""
    for nets in each_net(backends):
        for options in DDP_OPTIONS:
            own = copy.deepcopy(nets)
            with recorded_tails() as tails:
                for model in own.both:
                    if "find_unused_parameters" in options:
                        model.add_module("unused", nn.Linear(2, 2, dtype=own.dtype))
                        nn.init.ones_(model.unused.weight), nn.init.ones_(model.unused.bias)
                    wrapped = DistributedDataParallel(model, **options)
                    # With a static graph, PyTorch refuses parts that are not synchronised.
                    train(own, wrapped, rank, parts=1 if "static_graph" in options else 2)
            assert len(tails) == TAILS * 2 * (1 if "static_graph" in options else 2)
            own.assert_alike()
            assert_same_in_all_ranks(dict(own.fused.named_parameters()))


def check_buffers(rank: int, backends: list[str]) -> None:
    """The first rank's running statistics are everybody's at the next forward; without broadcast, each has its own."""
    for nets in each_net(backends):
        for broadcast in (True, False):
            own = copy.deepcopy(nets)
            for model in own.both:
                wrapped = DistributedDataParallel(model, broadcast_buffers=broadcast)
                train(own, wrapped, rank)
                with torch.no_grad():
                    wrapped.eval()(own.batch()[0])
            own.assert_alike()
            statistics = {n: b for n, b in own.fused.named_buffers() if n.endswith("running_mean")}
            if broadcast:
                assert_same_in_all_ranks(statistics)
            else:
                name, mine = next(iter(statistics.items()))
                first = mine.clone()
                dist.broadcast(first, 0)
                assert mine.equal(first) is (rank == 0), name


def check_ddp_fused_late(rank: int, backends: list[str]) -> None:
    """A network that is fused after it was wrapped."""
    for nets in each_net(backends):
        fused_resnet.unfuse(nets.fused)
        wrapped = DistributedDataParallel(nets.fused)
        report = fused_resnet.fuse(wrapped, strict=True)
        assert len(report.fused) == TAILS
        assert all(name.startswith("module.") for name in report.fused)
        with recorded_tails() as tails:
            train(nets, wrapped, rank)
        assert len(tails) == 2 * TAILS
        train(nets, DistributedDataParallel(nets.unfused), rank)
        nets.assert_alike()


def check_ddp_with_all_norms(rank: int, backends: list[str]) -> None:
    """Norms fused by themselves, their outputs computed again in backward."""
    for nets in each_net(backends):
        fused_resnet.fuse(nets.fused, recompute=True, strict=True)
        with recorded_tails() as tails:
            train(nets, DistributedDataParallel(nets.fused), rank)
        assert len(tails) > 2 * TAILS
        train(nets, DistributedDataParallel(nets.unfused), rank)
        nets.assert_alike()


def check_ddp_with_checkpointing(rank: int, backends: list[str]) -> None:
    """Blocks whose forward runs again in backward; the older way needs a static graph."""
    for nets in each_net(backends):
        for reentrant in (True, False):
            own = copy.deepcopy(nets)
            for model in own.both:
                for block in blocks_of(model):
                    block.forward = partial(checkpoint, block.forward, use_reentrant=reentrant)
                train(own, DistributedDataParallel(model, static_graph=reentrant), rank)
            own.assert_alike()


# Fully sharded data parallel


def sharded(model: nn.Module, mesh: object, **options: object) -> nn.Module:
    """Each block a group of its own, the rest another."""
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def gathered(model: nn.Module) -> nn.Module:
    """A stand-in for the model with whole parameters and gradients."""
    whole = nn.Module()
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        full = nn.Parameter(parameter.full_tensor())
        full.grad = None if parameter.grad is None else parameter.grad.full_tensor()
        whole.register_parameter(name.replace(".", "/"), full)
    for name, buffer in model.named_buffers():
        whole.register_buffer(name.replace(".", "/"), buffer)
    return whole


def check_fsdp(rank: int, backends: list[str]) -> None:
    """Fused before and after it is sharded, parameters freed after forward or not."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for nets in each_net(backends):
        expected = copy.deepcopy(nets.unfused)
        train(nets, sharded(expected, mesh), rank)
        for late in (False, True):
            model = copy.deepcopy(nets.fused)
            if late:
                fused_resnet.unfuse(model)
            sharded(model, mesh, reshard_after_forward=not late)
            if late:
                assert len(fused_resnet.fuse(model, strict=True).fused) == TAILS
            with recorded_tails() as tails:
                train(nets, model, rank)
            assert len(tails) == 2 * TAILS
            assert_alike(gathered(model), gathered(expected), nets.tolerance)


def check_fsdp_state(rank: int, backends: list[str]) -> None:
    """A sharded network's state is saved under the unfused network's names, whole."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for nets in each_net(backends):
        before = {name: value.clone() for name, value in nets.unfused.state_dict().items()}
        model = sharded(nets.fused, mesh)
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        if rank == 0:
            assert state.keys() == before.keys()
        for name, value in state.items():
            assert_close(name, value, before[name], 0.0)


def check_fsdp_under_autocast(rank: int, backends: list[str]) -> None:
    """Weights are cast for the tail while they are gathered; rounding moves both networks by about the same."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for nets in each_net(backends):
        losses = []
        for model in nets.both:
            sharded(model.float(), mesh)
            images, labels = nets.batch(rank)
            with torch.autocast("cpu", torch.bfloat16), recorded_tails() as tails:
                losses.append(nn.functional.cross_entropy(model(images.float()), labels))
            losses[-1].backward()
            assert len(tails) == (TAILS if model is nets.fused else 0)
        torch.testing.assert_close(*losses, rtol=0.02, atol=0)
        mine, theirs = (torch.cat([p.grad.full_tensor().flatten() for p in m.parameters()]) for m in nets.both)
        assert (mine - theirs).norm() <= 0.1 * theirs.norm()


def check_fsdp_of_single_modules(rank: int, backends: list[str]) -> None:
    """A module that is sharded by itself gathers its weight in a hook, so that no tail may swallow it."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for nets in each_net(backends):
        for model in nets.both:
            convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
            for conv in convolutions:
                fully_shard(conv, mesh=mesh)
            fully_shard(model, mesh=mesh)
            train(nets, model, rank)
        assert_alike(gathered(nets.fused), gathered(nets.unfused), nets.tolerance)


DDP_CHECKS = (check_ddp, check_buffers, check_ddp_fused_late, check_ddp_with_all_norms, check_ddp_with_checkpointing)
FSDP_CHECKS = (check_fsdp, check_fsdp_state, check_fsdp_under_autocast, check_fsdp_of_single_modules)


def run_checks(rank: int, checks: Sequence[Callable[[int, list[str]], None]], backends: list[str]) -> int:
    """Runs checks in turn; returns how many."""
    for check in checks:
        check(rank, backends)
    return len(checks)
