"""Fused networks under PyTorch's distributed wrappers, in several processes on the CPU; each keeps norms of its own."""

import distributed_checks
import pytest
import torch.distributed as dist
from processes import run_in_processes

import fused_resnet

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch is built without gloo"
)
ON_CPU = [name for name in ("reference", "emulated") if fused_resnet.available_backends()[name] is None]


@pytest.mark.parametrize("wrapper", ["DistributedDataParallel", "fully_shard"])
def test_two_processes_train_as_the_unfused_network_does(wrapper):
    checks = distributed_checks.DDP_CHECKS if wrapper.startswith("Dist") else distributed_checks.FSDP_CHECKS
    assert run_in_processes(distributed_checks.run_checks, 2, checks, ON_CPU) == [len(checks)] * 2


def test_four_processes_train_as_the_unfused_network_does():
    checks = (distributed_checks.check_ddp, distributed_checks.check_fsdp)
    assert run_in_processes(distributed_checks.run_checks, 4, checks, ["reference"]) == [2] * 4
