"""Fused networks under PyTorch's distributed wrappers, in several processes on the CPU; each keeps norms of its own."""

import distributed_checks
import pytest
import torch
import torch.distributed as dist
from processes import run_in_processes

import fused_resnet

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch is built without gloo"
)
ON_CPU = [name for name in ("reference", "emulated") if fused_resnet.available_backends()[name] is None]
SHARDS_ON_CPU = hasattr(torch.cpu.Stream, "record_event")
CHECKS = {"DistributedDataParallel": distributed_checks.DDP_CHECKS, "fully_shard": distributed_checks.FSDP_CHECKS}


@pytest.mark.parametrize("wrapper", ["DistributedDataParallel", pytest.param("fully_shard", marks=pytest.mark.slow)])
def test_two_processes_train_as_the_unfused_network_does(wrapper):
    if wrapper == "fully_shard" and not SHARDS_ON_CPU:
        pytest.skip("this PyTorch shards on GPUs only")
    checks = CHECKS[wrapper]
    assert run_in_processes(distributed_checks.run_checks, 2, checks, ON_CPU) == [len(checks)] * 2


@pytest.mark.slow
def test_four_processes_train_as_the_unfused_network_does():
    checks = [own[0] for wrapper, own in CHECKS.items() if wrapper != "fully_shard" or SHARDS_ON_CPU]
    assert run_in_processes(distributed_checks.run_checks, 4, checks, ["reference"]) == [len(checks)] * 4
