"""Norms that share their statistics between processes, as ``nn.SyncBatchNorm`` does, and without a GPU."""

import pytest
import synchronised_checks
import torch
import torch.distributed as dist
from compilers import needs_whole_graphs
from processes import run_in_processes
from torch import nn

import fused_resnet
from fused_resnet.functional import Direct, Norm, residual_tail

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch is built without gloo"
)
ON_CPU = [name for name in ("reference", "emulated") if fused_resnet.available_backends()[name] is None]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_get_the_results_of_one_on_all_images(count):
    checks = synchronised_checks.CHECKS
    assert run_in_processes(synchronised_checks.run_checks, count, checks, ON_CPU) == [len(checks)] * count


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_processes_on_gpus_compute_as_pytorchs_own_norm_and_as_one_process():
    usable = [name for name, reason in fused_resnet.available_backends().items() if reason is None]
    on_gpu = [name for name in usable if name != "emulated"]
    checks = [*synchronised_checks.CHECKS, synchronised_checks.check_against_pytorch]
    assert run_in_processes(synchronised_checks.run_checks, 2, checks, on_gpu, backend="nccl") == [len(checks)] * 2


@pytest.mark.slow
@needs_whole_graphs
def test_compiled_processes_compute_the_same():
    checks = [synchronised_checks.check_graph]
    assert run_in_processes(synchronised_checks.run_checks, 2, checks, ["reference"]) == [1] * 2


@pytest.mark.slow
def test_groups_of_processes_share_among_themselves():
    checks = [synchronised_checks.check_groups]
    assert run_in_processes(synchronised_checks.run_checks, 4, checks, ON_CPU) == [1] * 4


def test_one_process_alone_needs_nobody(device):
    """As in ``nn.SyncBatchNorm``: without a process group it is a batch norm."""
    block = nn.SyncBatchNorm.convert_sync_batchnorm(fused_resnet.nn.BasicBlock(8, 8)).to(device)
    x = torch.randn(2, 8, 4, 4, device=device)
    expected = block.relu(block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x))))) + x)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_a_group_that_is_no_name_is_refused(device):
    x = torch.randn(2, 8, 4, 4, device=device)
    with pytest.raises(TypeError, match=r"main\.norm\.process_group is a int, expected a name or None"):
        residual_tail(Direct(x, Norm(process_group=1)), Direct(x))
