"""Small networks with fused tails beside their unfused copies, and what it means that both were trained alike."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from user_blocks import Block

import fused_resnet
from fused_resnet import models
from fused_resnet.nn import Bottleneck

CLASSES = 5
IMAGES = (4, 3, 6, 6)
TAILS = 2


def own() -> nn.Module:
    """A network of this package, with both kinds of Bottleneck."""
    return models.ResNet(Bottleneck, (1, 1), width=4, num_classes=CLASSES, small_images=True)


class OfUsersBlocks(nn.Module):
    """A network of blocks as users write them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(Block(6, 8, 1), Block(8, 8, 2))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(images)).mean((2, 3)))


NETS = {"own": own, "users": OfUsersBlocks}


@dataclass
class Nets:
    """A fused network, its unfused copy, and how close they must stay: as near as their dtype allows."""

    fused: nn.Module
    unfused: nn.Module
    dtype: torch.dtype
    device: str

    @property
    def both(self) -> tuple[nn.Module, nn.Module]:
        return self.fused, self.unfused

    @property
    def tolerance(self) -> float:
        return 1e-9 if self.dtype == torch.float64 else 1e-4

    def batch(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Random images and labels."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(IMAGES, generator=generator, dtype=torch.float64)
        labels = torch.randint(CLASSES, IMAGES[:1], generator=generator)
        return images.to(self.device, self.dtype), labels.to(self.device)

    def loss(self, model: nn.Module, seed: int = 0) -> Tensor:
        """The loss of one batch."""
        images, labels = self.batch(seed)
        return F.cross_entropy(model(images), labels)

    def assert_alike(self) -> None:
        """Parameters, gradients and buffers of both agree."""
        assert_alike(self.fused, self.unfused, self.tolerance)


def make_nets(name: str, dtype: torch.dtype, device: str) -> Nets:
    """A network of `NETS` with norms away from their initial values, fused, and a copy without fused tails."""
    fused = NETS[name]()
    for module in fused.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    fused = fused.to(device, dtype)
    unfused = fused_resnet.unfuse(copy.deepcopy(fused))
    assert len(fused_resnet.fuse(fused, strict=True).fused) == TAILS
    return Nets(fused, unfused, dtype, device)


def assert_alike(fused: nn.Module, unfused: nn.Module, tolerance: float) -> None:
    """Parameters, gradients and buffers agree under the same names."""
    mine, theirs = dict(fused.named_parameters()), dict(unfused.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, parameter in mine.items():
        assert_close(name, parameter, theirs[name], tolerance)
        gradients = parameter.grad, theirs[name].grad
        assert (gradients[0] is None) == (gradients[1] is None), f"gradient of {name}"
        if gradients[1] is not None:
            assert_close(f"gradient of {name}", *gradients, tolerance)
    mine, theirs = dict(fused.named_buffers()), dict(unfused.named_buffers())
    assert mine.keys() == theirs.keys()
    for name, buffer in mine.items():
        assert_close(name, buffer, theirs[name], tolerance)


def assert_close(name: str, a: Tensor, b: Tensor, tolerance: float) -> None:
    """The norm of the difference is small against that of `b`, or against 1; integers are equal."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype), name
    if not b.is_floating_point():
        assert a.equal(b), name
        return
    error, size = (a.double() - b.double()).norm().item(), b.double().norm().item()
    assert error <= tolerance * max(1.0, size), f"{name}: differs by {error:.2e}, norm {size:.2e}"
