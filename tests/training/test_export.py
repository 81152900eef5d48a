"""Tracing, scripting and ONNX export: a fused network says what to do, and its unfused copy goes through as ever."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from small_nets import TAILS, make_nets
from torch import fx, nn

import fused_resnet
from fused_resnet.functional import Direct, residual_tail

# PyTorch recommends torch.export.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX export:DeprecationWarning"),
]
UNFUSED_COPY = r"fused_resnet\.unfuse\(copy\.deepcopy\(model\)\)"
EXPORTERS = {"torch.export": True, "TorchScript": False}


@pytest.fixture
def images(nets):
    return nets.batch()[0]


def unfused_copy(model):
    """What the errors say to use."""
    return fused_resnet.unfuse(copy.deepcopy(model))


def exported(model, images, dynamo):
    """The model in ONNX, or a skip where PyTorch's exporter lacks a package."""
    onnx = pytest.importorskip("onnx", reason="exporting to ONNX needs the onnx package")
    if dynamo:
        pytest.importorskip("onnxscript", reason="exporting to ONNX by torch.export needs the onnxscript package")
        return torch.onnx.export(model, (images,), dynamo=True, verbose=False).model_proto
    torch.onnx.export(model, (images,), stream := io.BytesIO(), dynamo=False)
    return onnx.load_from_string(stream.getvalue())


class TestOnnx:
    @pytest.mark.parametrize("exporter", EXPORTERS)
    def test_of_a_fused_network_says_to_export_its_unfused_copy(self, nets, images, exporter):
        dynamo = EXPORTERS[exporter]
        if dynamo:
            pytest.importorskip("onnxscript", reason="exporting to ONNX by torch.export needs the onnxscript package")
        with pytest.raises(Exception, match=f"cannot be exported to ONNX: export {UNFUSED_COPY}"):
            torch.onnx.export(nets.fused.eval(), (images,), io.BytesIO(), dynamo=dynamo, verbose=False)

    @pytest.mark.parametrize("exporter", EXPORTERS)
    def test_of_the_unfused_copy_gives_standard_operators_and_the_same_values(self, exporter):
        nets = make_nets("own", torch.float32, "cpu")
        images, _ = nets.batch()
        model = exported(unfused_copy(nets.fused).eval(), images, EXPORTERS[exporter])
        operators = [node.op_type for node in model.graph.node]
        assert {node.domain for node in model.graph.node} == {""}
        assert operators.count("Add") == TAILS
        assert {"Conv", "Relu", "Gemm"} <= set(operators)
        onnx_reference = pytest.importorskip("onnx.reference")
        evaluator = onnx_reference.ReferenceEvaluator(model)
        (logits,) = evaluator.run(None, {model.graph.input[0].name: images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), nets.fused.eval()(images), rtol=1e-4, atol=1e-5)

    def test_that_has_failed_leaves_the_network_fused_and_working(self, nets, images, computed_tails):
        with pytest.raises(RuntimeError, match=UNFUSED_COPY):
            torch.onnx.export(nets.fused.eval(), (images,), io.BytesIO(), dynamo=False)
        computed_tails.clear()
        torch.testing.assert_close(nets.fused(images), nets.unfused.eval()(images), rtol=1e-3, atol=nets.tolerance)
        assert len(computed_tails) == TAILS


class TestTorchScript:
    @pytest.mark.parametrize("training", [True, False])
    def test_tracing_a_fused_network_says_to_trace_its_unfused_copy(self, nets, images, training):
        with pytest.raises(RuntimeError, match=f"cannot be traced by torch.jit: trace {UNFUSED_COPY}"):
            torch.jit.trace(nets.fused.train(training), images)

    def test_tracing_the_operation_itself_is_refused(self, device):
        x = torch.randn(2, 4, 3, 3, device=device)
        with pytest.raises(RuntimeError, match=r"cannot be traced by torch\.jit"):
            torch.jit.trace(lambda a, b: residual_tail(Direct(a), Direct(b)), (x, x))

    def test_a_trace_of_the_unfused_copy_computes_the_same(self, nets, images):
        traced = torch.jit.trace(unfused_copy(nets.fused).eval(), images)
        assert torch.equal(traced(images), nets.unfused.eval()(images))

    def test_scripting_a_fused_network_says_what_to_do(self, nets):
        with pytest.raises(
            RuntimeError, match=rf"torch\.jit\.script: (compile|use torch\.jit\.trace on) {UNFUSED_COPY}"
        ):
            torch.jit.script(nets.fused)

    def test_networks_of_users_blocks_are_scripted_once_unfused(self):
        class Scriptable(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return F.relu(self.bn(self.conv(x)) + x)

        model = nn.Sequential(Scriptable()).eval()
        assert fused_resnet.fuse(model).fused
        x = torch.randn(2, 4, 3, 3)
        torch.testing.assert_close(torch.jit.script(unfused_copy(model))(x), model(x))

    def test_networks_of_this_package_are_traced_as_they_cannot_be_scripted(self):
        model = fused_resnet.models.resnet20(fused=False)
        with pytest.raises(RuntimeError, match=r"cannot be compiled by torch\.jit\.script: use torch\.jit\.trace on"):
            torch.jit.script(model)


class TestFx:
    def test_a_graph_of_a_fused_network_has_the_standard_operations(self, nets, images):
        fused, unfused = (fx.symbolic_trace(model) for model in nets.both)
        assert str(fused.graph) == str(unfused.graph)
        torch.testing.assert_close(fused.eval()(images), nets.unfused.eval()(images))
