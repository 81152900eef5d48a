"""A whole training step of a fused ResNet-50 as one CUDA graph: the host queues it once, the GPU runs it on its own.

    python examples/cuda_graph.py

Worth it where the host is slower than the GPU: small batches, small images, many blocks. Shapes, learning rate and
everything else that Python decides stay what they were at capture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_resnet

WARM_UP = 3


class CapturedStep:
    """A training step (forward, loss, backward, optimizer) that is replayed with other batches of the same shape.

    Args:
        model: on a GPU, in training mode.
        optimizer: one that can be captured: ``capturable=True`` where it has that option.
        images, labels: a first batch; `WARM_UP` steps are made with it, as PyTorch's recipe for capturing asks.
        dtype: of autocast; None to train without.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        dtype: torch.dtype | None = torch.bfloat16,
    ) -> None:
        self._model, self._optimizer, self._dtype = model, optimizer, dtype
        self._images, self._labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._step()

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The step with another batch; its loss, which the next call overwrites."""
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._loss

    def _step(self) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        # The cache of cast weights must not outlive a capture.
        with torch.autocast("cuda", self._dtype, enabled=self._dtype is not None, cache_enabled=False):
            loss = F.cross_entropy(self._model(self._images), self._labels)
        loss.backward()
        self._optimizer.step()
        return loss.detach()


def milliseconds(step: Callable[[], object], steps: int) -> float:
    """Of one step, from the first to the last of several."""
    step()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / steps * 1e3


def main() -> None:
    """Times steps as they are queued one by one, and replayed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("CUDA graphs need a GPU")
    model = fused_resnet.models.resnet50().cuda()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(options.batch_size, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (options.batch_size,), device="cuda")
    captured = CapturedStep(model, optimizer, images, labels)

    def live() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    replayed = milliseconds(lambda: captured(images, labels), options.steps)
    print(f"replayed {replayed:.1f} ms a step, queued one by one {milliseconds(live, options.steps):.1f} ms")


if __name__ == "__main__":
    main()
