"""Bytes that a whole ResNet-50 training step moves beside its convolutions: the figures of README.md, counted.

Of what is outside of tails, every norm is one of an activation that a convolution has written and the next one reads.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from benchmarks.errors import EXTRA
from fused_resnet.cost import traffic
from fused_resnet.operation.branches import Direct, Norm
from fused_resnet.operation.computation import Needs, Tail

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks.tail.counts import counted  # noqa: E402
from benchmarks.tail.passes import watch  # noqa: E402
from benchmarks.tail_shapes import RESNET50  # noqa: E402
from benchmarks.tails import MODES  # noqa: E402

BATCH, DTYPE = 256, torch.bfloat16
TRAIN = next(mode for mode in MODES.values() if mode.training and mode.backward)


@dataclass(frozen=True)
class Activation:
    """What a norm with a relu reads and writes."""

    channels: int
    size: int
    times: int

    def tensor(self) -> torch.Tensor:
        return torch.empty(BATCH, self.channels, self.size, self.size, dtype=DTYPE, device="meta")


def activations():
    """ResNet-50's: the stem's, and two a block."""
    yield Activation(64, 112, 1)
    for channels, size, blocks in ((64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)):
        first = size if channels == 64 else 2 * size  # the stride is in the 3x3 convolution
        yield Activation(channels, first, 1)
        yield Activation(channels, size, 2 * blocks - 1)


def eager_bytes(activation):
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm2d(activation.channels), nn.ReLU(inplace=True))
    z = activation.tensor().requires_grad_()

    def step():
        y = model(z)
        torch.autograd.grad(y, z, torch.empty_like(y))

    return watch(step).elements * DTYPE.itemsize * activation.times


def fused_bytes(activation):
    channels = torch.empty(activation.channels, device="meta")
    tail = Tail((Direct(activation.tensor(), Norm(channels, channels, channels, channels)),), relu=True)
    needs = [Needs(x=True, weight=False, bias=False, gamma=True, beta=True)]
    both = traffic.forward(tail, keep=True), traffic.backward(tail, needs)
    return sum(of.bytes for of in both) * activation.times


def passes(total):
    activation_bytes = sum(a.tensor().nbytes * a.times for a in activations())
    return total / activation_bytes


def of_tails(way):
    return sum(counted(way, shape, TRAIN, DTYPE).bytes * shape.blocks for shape in RESNET50)


def test_a_norm_with_a_relu_takes_eight_passes_where_pytorch_takes_thirteen():
    assert passes(sum(map(eager_bytes, activations()))) == 13
    assert passes(sum(map(fused_bytes, activations()))) == 8


def test_a_whole_step_moves_less_than_half():
    norms_eager, norms_fused = (sum(map(of, activations())) for of in (eager_bytes, fused_bytes))
    tails_eager, tails_fused = map(of_tails, ("eager", "fused"))
    again = 3 * sum(a.tensor().nbytes * a.times for a in activations())  # z for the statistics and for y, and y
    steps = {
        "PyTorch's operations": tails_eager + norms_eager,
        "tails fused": tails_fused + norms_eager,
        "all norms fused": tails_fused + norms_fused,
        "norms recomputed": tails_fused + norms_fused + again,
    }
    assert {name: round(total / 1e9, 1) for name, total in steps.items()} == {
        "PyTorch's operations": 92.9,
        "tails fused": 46.0,
        "all norms fused": 35.6,
        "norms recomputed": 41.8,
    }
