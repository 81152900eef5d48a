"""What "auto" does where the kernels cannot be used on a GPU: fall back, warn once, or refuse where they are required.

There need be no GPU: whether kernels can be used depends on what was recorded of the build, and on a device's name.
"""

import warnings

import pytest
import torch
from installations import BUILD, OTHER_TORCH, THIS_TORCH
from user_blocks import Block

import fused_resnet
from fused_resnet import backend, use_backend
from fused_resnet.backends.kernels.compatibility import runs_on
from fused_resnet.functional import Direct, Norm, residual_tail
from fused_resnet.nn import BasicBlock
from fused_resnet.operation.requirement import kernels_required, require_kernels


def kernels_take(device):
    """Whether "auto" leaves a tail on the device to the kernels."""
    return backend.kernels_take(torch.device(device))


def compute_on_cpu():
    return residual_tail(Direct(torch.ones(2, 3, 4, 4), Norm()), None)


class OnSecondGpu(torch.Tensor):
    """A tensor that says so."""

    is_cuda = True
    device = torch.device("cuda:1")


def warnings_of(*devices):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for device in devices:
            kernels_take(device)
    return [str(warning.message) for warning in caught if "fused_resnet" in str(warning.message)]


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("8.0", (8, 0), True),
        ("8.0", (8, 6), True),
        ("8.0", (8, 9), True),
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("9.0", (8, 9), False),
        ("9.0", (10, 0), False),
        ("10.0", (10, 3), True),
        ("12.0", (12, 1), True),
        ("9.0+PTX", (10, 0), True),
        ("9.0+PTX", (12, 0), True),
        ("9.0+PTX", (8, 9), False),
        ("8.0+PTX", (8, 6), True),
        ("9.0a", (9, 0), True),
        ("9.0a", (10, 0), False),
        ("10.0a", (10, 3), False),
        ("9.0a+PTX", (10, 0), False),
        ("10.0f", (10, 3), True),
        ("10.0f+PTX", (12, 0), False),
        ("8.0 9.0", (9, 0), True),
        ("8.0 9.0", (10, 0), False),
        ("8.0 8.6 8.9 9.0 10.0 12.0+PTX", (11, 0), False),
        ("8.0 8.6 8.9 9.0 10.0 12.0+PTX", (13, 0), True),
        ("", (9, 0), False),
    ],
)
def test_code_runs_on_its_own_architecture_and_on_those_that_cuda_lets_it(architectures, capability, runs):
    assert runs_on(architectures, capability) is runs


def test_architecture_of_another_form_is_named():
    with pytest.raises(ValueError, match=r"architecture is 'Hopper', expected one such as '8\.0'"):
        runs_on("8.0 Hopper", (9, 0))


def test_kernels_built_for_another_torch_warn_once_and_name_both_versions_and_the_command(installation):
    installation.built(OTHER_TORCH)
    (message,) = warnings_of("cuda:0", "cuda:0", "cuda:1")
    for part in ("torch 1.2.3", f"torch {torch.__version__}", BUILD, "plain PyTorch"):
        assert part in message


def test_gpu_without_code_for_its_architecture_warns_once_and_names_both_and_the_command(installation):
    installation.built(THIS_TORCH)
    (message,) = warnings_of("cuda:1", "cuda:1")
    for part in ("architectures 8.0 9.0", "GPU number 1", "is 12.0", BUILD):
        assert part in message


def test_of_two_gpus_one_may_fall_back(installation):
    installation.built(THIS_TORCH)
    assert warnings_of("cuda:0") == []
    assert len(warnings_of("cuda:1")) == 1
    assert kernels_take("cuda:0")
    assert not kernels_take("cuda:1")
    assert fused_resnet.available_backends()["cuda"] is None


def test_kernels_that_no_gpu_can_run_are_not_available(installation):
    installation.built({**THIS_TORCH, "architectures": "8.0"})
    reason = fused_resnet.available_backends()["cuda"]
    assert "built for architectures 8.0, but cuda:0 (GPU number 0) is 9.0" in reason
    with pytest.raises(RuntimeError, match="is not available"):
        use_backend("cuda")


def test_gpu_without_code_for_its_architecture_refuses_the_kernels_that_were_chosen(installation):
    installation.built(THIS_TORCH)
    with use_backend("cuda"), pytest.raises(RuntimeError, match=r"built for architectures 8\.0 9\.0"):
        residual_tail(Direct(torch.ones(2, 3, 4, 4).as_subclass(OnSecondGpu), Norm()), None)


def test_installation_without_kernels_warns_once_and_names_the_reason_and_the_command(installation):
    (message,) = warnings_of("cuda:0", "cuda:0", "cuda:1")
    for part in ("plain PyTorch", "not built (no nvcc was found)", BUILD):
        assert part in message


def test_gpu_that_is_too_old_is_not_sent_to_a_command_that_cannot_help(installation, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    (message,) = warnings_of("cuda:0")
    assert "cuda:0 (GPU number 0) is 7.5, and the kernels need architecture 8.0 or later" in message
    assert "fused_resnet build" not in message


def test_tensors_elsewhere_than_on_a_gpu_are_silent(installation):
    installation.built(OTHER_TORCH)
    assert warnings_of("cpu") == []


# FUSED_RESNET_REQUIRE


@pytest.mark.parametrize(
    ("record", "device", "reason"),
    [
        ({"reason": "no nvcc was found"}, "cuda:0", "not built (no nvcc was found)"),
        (OTHER_TORCH, "cuda:0", "built for torch 1.2.3"),
        (THIS_TORCH, "cuda:1", "built for architectures 8.0 9.0"),
        (THIS_TORCH, "cpu", "its tensors are on cpu"),
    ],
)
def test_required_kernels_are_an_error_where_they_cannot_be_used(installation, monkeypatch, record, device, reason):
    installation.built(record)
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", "cuda")
    with pytest.raises(RuntimeError) as caught:
        compute_on_cpu() if device == "cpu" else kernels_take(device)
    assert "FUSED_RESNET_REQUIRE=cuda" in str(caught.value)
    assert reason in str(caught.value)


def test_required_kernels_that_can_be_used_are_taken(installation, monkeypatch):
    installation.built(THIS_TORCH)
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", "cuda")
    assert kernels_take("cuda:0")


def test_backend_that_was_chosen_is_no_fallback(installation, monkeypatch):
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", "cuda")
    with use_backend("reference"):
        compute_on_cpu()


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_requirement_of_another_value_is_refused_at_the_first_tail(installation, monkeypatch, device):
    installation.built(THIS_TORCH)
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", "gpu")
    with pytest.raises(ValueError, match="FUSED_RESNET_REQUIRE is 'gpu', expected 'cuda'"):
        compute_on_cpu() if device == "cpu" else kernels_take(device)


def test_requirement_is_read_at_each_call(monkeypatch):
    monkeypatch.delenv("FUSED_RESNET_REQUIRE", raising=False)
    require_kernels("float64 has none")
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", "cuda")
    with pytest.raises(RuntimeError, match="float64 has none"):
        require_kernels("float64 has none")
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", "")
    assert kernels_required() is False


class TestRequiredOfBlocks:
    """A fused block that runs PyTorch's operations is a fallback, too; one that was never fused is none."""

    @pytest.fixture(autouse=True)
    def _required(self, monkeypatch):
        monkeypatch.setenv("FUSED_RESNET_REQUIRE", "cuda")

    @pytest.fixture(params=["own", "fused"])
    def block(self, request):
        block = BasicBlock(6, 8, 2) if request.param == "own" else Block().float()
        fused_resnet.fuse(block)
        return block

    def test_hook_that_keeps_a_tail_from_being_fused_is_an_error(self, block):
        block.bn2.register_forward_hook(lambda *_: None)
        with pytest.raises(RuntimeError, match=r"FUSED_RESNET_REQUIRE=cuda.*bn2: BatchNorm2d has hooks"):
            block(torch.randn(2, 6, 8, 8))

    def test_operands_that_no_tail_takes_are_an_error(self, block):
        block.bn2.double()
        with pytest.raises(RuntimeError, match=r"FUSED_RESNET_REQUIRE=cuda.*float64"):
            block(torch.randn(2, 6, 8, 8))

    def test_unfused_block_runs(self, block):
        fused_resnet.unfuse(block)(torch.randn(2, 6, 8, 8))
