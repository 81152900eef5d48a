"""`torch.export` takes a fused network in evaluation as one program, which reloads and computes the same."""

import io

import pytest
import torch
from compilers import needs_whole_graphs
from torch.export import Dim

import fused_resnet
from fused_resnet import models

pytestmark = needs_whole_graphs


def fused_tails(program) -> int:
    return sum("fused_resnet" in str(node.target) for node in program.graph.nodes)


def torchvision_resnet18():
    pytest.importorskip("benchmarks.torchvision_operators")
    model = pytest.importorskip("torchvision").models.resnet18(num_classes=10)
    fused_resnet.fuse(model)
    return model


NETWORKS = {
    "own": lambda: models.resnet18(num_classes=10),
    "torchvision's, fused": torchvision_resnet18,
    "option A": lambda: models.cifar_resnet(8),
}


@pytest.fixture(params=NETWORKS)
def model(request):
    return NETWORKS[request.param]().eval()


@pytest.mark.parametrize("strict", [False, True])
def test_exported_network_reloads_for_any_batch_size(model, strict):
    x = torch.randn(4, 3, 32, 32)
    batch = Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}, strict=strict)
    tails = sum(isinstance(m, fused_resnet.nn.ResidualBlock) or hasattr(m, "conv2") for m in model.modules())
    assert fused_tails(program) == tails
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    reloaded = torch.export.load(file).module()
    with torch.no_grad():
        for size in (2, 4, 7):
            x = torch.randn(size, 3, 32, 32)
            torch.testing.assert_close(reloaded(x), model(x))


def test_export_leaves_the_buffers_alone(model):
    """Evaluation writes none, and the program does not claim that it does."""
    program = torch.export.export(model, (torch.randn(2, 3, 32, 32),))
    assert not program.graph_signature.buffers_to_mutate
