"""Images in memory, served a batch at a time."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class TensorImages(Dataset):
    """Images and their targets in memory, served a whole batch at a time.

    Args:
        images: (N, C, H, W), uint8.
        target: (N,), int64.
        index: (N,), int64: where each image stands in its data set's own order; by default as here.
        files: (N,), names of their files; None where they have none of their own.
    """

    files: np.ndarray | None = None

    def __init__(
        self, images: Tensor, target: Tensor, index: Tensor | None = None, *, files: np.ndarray | None = None
    ) -> None:
        self.images = images
        self.target = target
        self.index = torch.arange(len(target)) if index is None else index
        self.files = files

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.target[index]

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        """A batch by one gather: images (B, C, H, W) and target (B,). The DataLoader looks for this method."""
        index = torch.as_tensor(indices).to(self.images.device, non_blocking=True)
        return self.images[index], self.target[index]

    def to(self, device: torch.device) -> "TensorImages":
        """The same images and targets on a device."""
        return TensorImages(self.images.to(device), self.target.to(device), self.index, files=self.files)

    @classmethod
    def joined(cls, parts: "Sequence[TensorImages]") -> "TensorImages":
        """The images of several, one after the other; all have files, or none has."""
        files = None if parts[0].files is None else np.concatenate([part.files for part in parts])
        tensors = ([part.images, part.target, part.index] for part in parts)
        return cls(*map(torch.cat, zip(*tensors, strict=True)), files=files)

    def subset(self, indices: np.ndarray) -> "TensorImages":
        files = None if self.files is None else self.files[indices]
        return TensorImages(*self.__getitems__(indices), self.index[torch.as_tensor(indices)], files=files)


class Loaded(NamedTuple):
    """What a data set holds: its training images, its official test and validation images if it has any, and between
    them its classes' names.
    """

    train: TensorImages
    test: TensorImages | None
    class_names: tuple[str, ...]
    val: TensorImages | None = None


def pixel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel's pixels in [0, 1], of images (N, C, H, W), uint8."""
    means, stds, levels = [], [], np.arange(256) / 255
    for channel in range(images.shape[1]):
        # From the histogram: exact, and no copy of 43 million pixels as numbers with a fraction.
        histogram = torch.bincount(images[:, channel].flatten(), minlength=256).numpy()
        means.append(float(np.average(levels, weights=histogram)))
        stds.append(float(np.average((levels - means[-1]) ** 2, weights=histogram) ** 0.5))
    return means, stds


def fingerprint(loaded: Loaded) -> str:
    """A hash of everything that a data set holds: of the images, their targets and order, and the classes' names."""
    digest = hashlib.blake2b("\0".join(loaded.class_names).encode(), digest_size=16)
    for name, part in (("train", loaded.train), ("test", loaded.test), ("val", loaded.val)):
        if part is not None:
            digest.update(f"{name}{tuple(part.images.shape)}".encode())
            for values in (part.images, part.target):
                digest.update(values.contiguous().numpy().data)
    return digest.hexdigest()


def image_hashes(images: Tensor) -> list[str]:
    """A short hash of each image (N, C, H, W), uint8: 64 bits, so that among a million no two are likely to agree."""
    return [hashlib.blake2b(image, digest_size=8).hexdigest() for image in images.numpy()]
