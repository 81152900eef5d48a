"""Trains a ResNet with fused tails: on a CPU, on one GPU, or on many machines, by the same file.

    python examples/train.py                                                        # synthetic images
    torchrun --standalone --nproc-per-node 8 examples/train.py --data imagenet --amp bf16        # one machine, 8 GPUs
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 examples/train.py ...

Each process has one GPU and its own part of the images; DistributedDataParallel averages their gradients.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from tqdm import tqdm

import fused_resnet

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="a folder with train/ and val/, each with a folder of images a class")
    add("--model", default="resnet50", help="a function of fused_resnet.models (default: resnet50)")
    add("--classes", type=int, default=1000)
    add("--image-size", type=int, default=224)
    add("--batch-size", type=int, default=64, help="images a process")
    add("--epochs", type=int, default=90)
    add("--steps", type=int, help="stop each epoch after so many")
    add("--lr", type=float, default=0.1, help="for 256 images a step; scaled to as many as all processes have")
    add("--workers", type=int, default=4, help="processes that load images, for each that trains")
    add("--amp", choices=AMP, help="autocast to this dtype")
    add("--fuse", action=argparse.BooleanOptionalAction, default=True, help="compute residual tails as one operation")
    add("--sync-bn", action="store_true", help="batch norms over the images of all processes; needs GPUs")
    add("--compile", action="store_true", help="torch.compile the network")
    add("--checkpoint", type=Path, help="written after each epoch; training goes on from it where it exists")
    options = parser.parse_args()
    if options.sync_bn and not torch.cuda.is_available():
        parser.error("--sync-bn needs GPUs: PyTorch has no synchronised batch norm for CPUs")
    return options


def join_group() -> torch.device:
    """Joins the group that torchrun sets up, or makes one of this process alone; returns the process's device."""
    device, backend = torch.device("cpu"), "gloo"
    if torch.cuda.is_available():
        device, backend = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))), "nccl"
        torch.cuda.set_device(device)
    if not dist.is_torchelastic_launched():
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="0")
    dist.init_process_group(backend)
    return device


def say(what: object) -> None:
    """Prints, in one process of all."""
    if dist.get_rank() == 0:
        tqdm.write(str(what))


class Synthetic(Dataset[tuple[Tensor, int]]):
    """Noise that is brighter from class to class: something to learn, without a download."""

    def __init__(self, length: int, classes: int, size: int) -> None:
        self._length, self._classes, self._size = length, classes, size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = index % self._classes
        noise = torch.randn(3, self._size, self._size, generator=torch.Generator().manual_seed(index))
        return noise + label / self._classes, label


def dataset(options: argparse.Namespace, train: bool) -> Dataset[Any]:
    size = options.image_size
    if options.data is None:
        return Synthetic((100 if train else 1) * options.batch_size, options.classes, size)
    torchvision = importlib.import_module("torchvision")
    t, folder = torchvision.transforms, options.data / ("train" if train else "val")
    augmented, central = [t.RandomResizedCrop(size), t.RandomHorizontalFlip()], [t.Resize(size), t.CenterCrop(size)]
    to_tensor = [t.ToTensor(), t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    transform = t.Compose([*(augmented if train else central), *to_tensor])
    images: Dataset[Any] = torchvision.datasets.ImageFolder(folder, transform)
    return images


def loader(options: argparse.Namespace, train: bool) -> DataLoader[Any]:
    images, on_gpu = dataset(options, train), torch.cuda.is_available()
    own: DistributedSampler[Any] = DistributedSampler(images, shuffle=train, drop_last=train)
    how = {"num_workers": options.workers, "pin_memory": on_gpu, "drop_last": train}
    return DataLoader(images, options.batch_size, sampler=own, **how)


def network(options: argparse.Namespace, device: torch.device) -> nn.Module:
    model: nn.Module = getattr(fused_resnet.models, options.model)(num_classes=options.classes, fused=False)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.sync_bn:  # before fuse, which takes the norms that it finds
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if options.fuse:
        say(fused_resnet.fuse(model))
    return model


class Trainer:
    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.model = network(options, device)
        compiled: Any = torch.compile(self.model) if options.compile else self.model
        self.parallel = DistributedDataParallel(compiled, device_ids=[device] if device.type == "cuda" else None)
        lr = options.lr * options.batch_size * dist.get_world_size() / 256
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, options.epochs)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
        parts = ("model", "optimizer", "schedule", "scaler")
        self.saved, self.epoch = {name: getattr(self, name) for name in parts}, 0

    def logits(self, images: DataLoader[Any], name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The network's outputs and the labels, batch by batch."""
        steps = min(self.options.steps or len(images), len(images))
        for x, labels in tqdm(islice(images, steps), name, steps, leave=False, disable=dist.get_rank() != 0):
            x = x.to(self.device, non_blocking=True, memory_format=torch.channels_last)
            with torch.autocast(self.device.type, AMP.get(self.options.amp), enabled=self.options.amp is not None):
                logits = self.parallel(x)
            yield logits.float(), labels.to(self.device, non_blocking=True)

    def train(self, images: DataLoader[Any]) -> float:
        self.parallel.train()
        losses = []
        for logits, labels in self.logits(images, f"epoch {self.epoch + 1}"):
            loss = F.cross_entropy(logits, labels)
            losses.append(loss.detach())
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.schedule.step()
        self.epoch += 1
        return mean(losses)

    @torch.no_grad()
    def accuracy(self, images: DataLoader[Any]) -> float:
        self.parallel.eval()
        return mean([(logits.argmax(1) == labels).float() for logits, labels in self.logits(images, "evaluation")])

    def save(self, path: Path) -> None:
        if dist.get_rank() == 0:
            torch.save({"epoch": self.epoch, **{name: part.state_dict() for name, part in self.saved.items()}}, path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.epoch = state.pop("epoch")
        for name, part in self.saved.items():
            part.load_state_dict(state[name])


def mean(values: list[Tensor]) -> float:
    """Of the values of all processes, which have as many each."""
    total = torch.cat([value.flatten() for value in values]).mean()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def main() -> None:
    options = arguments()
    device = join_group()
    images = options.data or "synthetic (give --data for real ones)"
    say(f"{dist.get_world_size()} processes; {fused_resnet.backend.summary()}; images: {images}")
    torch.manual_seed(dist.get_rank())  # of augmentations; all start from the first one's weights
    trainer = Trainer(options, device)
    training, validation = (loader(options, train) for train in (True, False))
    if options.checkpoint and options.checkpoint.exists():
        trainer.load(options.checkpoint)
        say(f"going on after epoch {trainer.epoch}")
    while trainer.epoch < options.epochs:
        assert isinstance(training.sampler, DistributedSampler)
        training.sampler.set_epoch(trainer.epoch)
        loss = trainer.train(training)
        say(f"epoch {trainer.epoch}: loss {loss:.4f}, accuracy {trainer.accuracy(validation):.4f}")
        if options.checkpoint:
            trainer.save(options.checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
