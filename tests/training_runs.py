"""Short training runs of torchvision's ResNets on a few random images: their first step, and their losses.

Full width and depth, images of 64x64: the last stage's norms see 2x2 pixels of each image, 16 values a channel. With
32x32 that would be one pixel, and the variance of four values at a time is mostly chance.

The last norm of each block starts with a weight of 0.2. At 1, an untrained ResNet-50 multiplies rounding from block to
block until under bfloat16 autocast the unfused network's own gradient has an error of its size, and nothing could be
told from comparing with it. At 0.2 the error is a twentieth where relus decide alike.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from compare import Outcome
from torch import Tensor, nn
from torchvision import models

import benchmarks.torchvision_operators  # noqa: F401 - before torchvision

CLASSES = 10
BATCHES, IMAGES = 2, (4, 3, 64, 64)


@dataclass(frozen=True)
class Run:
    """A network by torchvision's name, float32 or under autocast to `dtype`, on a device."""

    network: str
    dtype: torch.dtype
    device: str

    def model(self) -> nn.Module:
        """The network as it starts; the same at each call, with numbers that `dtype` can hold."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(models, self.network)(num_classes=CLASSES)
        for name, parameter in model.named_parameters():
            if name.endswith(_last_norm(self.network)):
                nn.init.constant_(parameter, 0.2)
            parameter.data = self._rounded(parameter.data)
        return model.to(self.device)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Random images with random labels, the same at each call."""
        generator = torch.Generator().manual_seed(1)
        images = self._rounded(torch.randn(BATCHES, *IMAGES, generator=generator))
        labels = torch.randint(CLASSES, (BATCHES, IMAGES[0]), generator=generator)
        return list(zip(images.to(self.device), labels.to(self.device), strict=True))

    def autocast(self) -> AbstractContextManager:
        """What the network runs under."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def _rounded(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).float()


def _last_norm(network: str) -> str:
    return {"resnet18": ".bn2.weight", "resnet50": ".bn3.weight"}[network]


def first_step(
    model: nn.Module, images: Tensor, labels: Tensor, autocast: AbstractContextManager | None = None
) -> Outcome:
    """The loss of each image, the gradients of their mean and the running statistics."""
    with autocast or nullcontext():
        losses = F.cross_entropy(model(images), labels, reduction="none")
    losses.mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return Outcome(losses.detach(), gradients, dict(model.named_buffers()))


def losses(run: Run, model: nn.Module, steps: int, first: Outcome | None = None) -> Tensor:
    """The loss at the beginning of each step of SGD with momentum, batch after batch; the model is trained.

    `first`: what `first_step` has made of the model and the first batch, which is not computed again then.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    batches, found = run.batches(), []
    for step in range(steps):
        if step == 0 and first is not None:
            found.append(first.output.mean().item())
        else:
            images, labels = batches[step % BATCHES]
            with run.autocast():
                loss = F.cross_entropy(model(images), labels)
            found.append(loss.item())
            if step < steps - 1:
                optimizer.zero_grad()
                loss.backward()
        if step < steps - 1:  # nobody sees the last update
            optimizer.step()
    return torch.tensor(found, dtype=torch.float64)


def perturbed(run: Run, count: int) -> Iterator[nn.Module]:
    """Networks whose weights start one unit in the last place of the run's dtype away, up or down at random."""
    start, generator = run.model(), torch.Generator().manual_seed(2)
    for _ in range(count):
        model = copy.deepcopy(start)
        for parameter in model.parameters():
            weight = parameter.data.cpu().to(run.dtype)
            target = torch.where(torch.rand(weight.shape, generator=generator) < 0.5, torch.inf, -torch.inf)
            parameter.data = torch.nextafter(weight, target.to(run.dtype)).float().to(run.device)
        yield model
