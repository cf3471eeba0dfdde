"""Augmentation: batched modules, put together, and those of single images applied to each."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of a batch's images and their target


class Steps(nn.Sequential):
    """The steps one after the other, each under its name: a command line can reach into them.

    Args:
        steps: modules on images (B, C, H, W) in [0, 1].
    """

    def __init__(self, **steps: nn.Module) -> None:
        super().__init__(OrderedDict(steps))


class NoMixing(nn.Module):
    """Leaves the images of a batch and their target as they are."""

    def forward(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return images, target


class ByImage(nn.Module):
    """Applies a transform to each image of a batch, with random numbers of its own.

    Args:
        transform: maps an image (C, H, W) to another.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.transform(image) for image in images])


def by_image(augmentation: Any) -> Any:
    """Has torchvision's transforms applied image by image, those inside of `Steps` and nn.Sequential too.

    Of a batch they would draw one value for all images, as they are made for one image. Kornia's draw one for each.
    """
    if any(kind.__module__.startswith("torchvision.transforms") for kind in type(augmentation).__mro__):
        return ByImage(augmentation)
    if isinstance(augmentation, nn.Sequential):
        for name, step in augmentation.named_children():
            if (single := by_image(step)) is not step:
                setattr(augmentation, name, single)
    return augmentation
