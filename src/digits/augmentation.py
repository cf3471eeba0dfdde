"""Augmentation: batched modules, put together, and those of single images applied to each."""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from digits.validation import checked_arguments

Share = Annotated[float, Field(ge=0, lt=1)]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of a batch's images and their target


class Steps(nn.Sequential):
    """The steps one after the other, each under its name: a command line can reach into them.

    Args:
        steps: modules on images (B, C, H, W) in [0, 1].
    """

    def __init__(self, **steps: nn.Module) -> None:
        super().__init__(OrderedDict(steps))


class Digits(nn.Module):
    """Turns, scales, shears, shifts and bends each image by its own random amounts, in one resampling.

    Width and height are scaled apart from each other, which writers do and a plain zoom does not. What comes from
    outside of the image is black.

    Source of the bending: Simard et al., Best Practices for Convolutional Neural Networks Applied to Visual Document
    Analysis (2003); here the random displacements are those of a coarse grid, with cubic splines between its points.

    Args:
        degrees: largest angle of the rotation.
        translate: largest shift, as a share of width and height, before the rest.
        scale: width and height are each divided by a number in 1 ± `scale`.
        shear: largest angle of the shear, in degrees.
        elastic: standard deviation of the grid's displacements, in pixels.
        cells: points of that grid along each side.

    Raises:
        ValueError: for an argument out of range.
    """

    @checked_arguments
    def __init__(
        self,
        degrees: Annotated[float, Field(ge=0, le=180)] = 10.0,
        translate: Share = 0.1,
        scale: Share = 0.15,
        shear: Annotated[float, Field(ge=0, le=60)] = 10.0,
        elastic: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7,
        cells: Annotated[int, Field(ge=2, le=32)] = 5,
    ) -> None:
        super().__init__()
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.elastic, self.cells = elastic, cells

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to such images."""
        count, _, height, width = images.shape
        draws = 2 * torch.rand(6, count, device=images.device) - 1
        angle, slant = math.radians(self.degrees) * draws[0], (math.radians(self.shear) * draws[1]).tan()
        wide, high = 1 + self.scale * draws[2], 1 + self.scale * draws[3]
        cos, sin = angle.cos(), angle.sin()
        # Where each pixel comes from, as a sum of fields: x, y and 1 for a turn behind a shear behind a scaling, ...
        right, down = 2 * self.translate * draws[4:]  # the image is 2 wide
        x = [wide * (cos + slant * sin), wide * (slant * cos - sin), right]
        y = [high * sin, high * cos, down]
        amounts = torch.stack([*x, *y], dim=1).view(count, 2, 3)
        if self.elastic:  # ... and a spline for each point of the grid
            bent = torch.randn(2, count, self.cells**2, device=images.device) * self.elastic
            moved = torch.stack([bent[0] * (2 / width), bent[1] * (2 / height)], dim=1)
            amounts = torch.cat([amounts, moved], dim=2)
        fields = _fields(height, width, self.cells, images.device)[: amounts.shape[2]]
        places = (amounts @ fields).view(count, 2, height, width).permute(0, 2, 3, 1)
        return F.grid_sample(images, places, align_corners=False)


@functools.lru_cache
def _fields(height: int, width: int, cells: int, device: torch.device) -> Tensor:
    """x, y and 1 at each pixel, as `grid_sample` has them, and cubic splines: (3 + cells², height * width)."""
    y, x = (((2 * torch.arange(side) + 1) / side - 1) for side in (height, width))
    plane = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width)])
    points = torch.eye(cells**2).view(1, -1, cells, cells)
    splines = F.interpolate(points, (height, width), mode="bicubic", align_corners=True)[0]
    return torch.cat([plane, splines]).flatten(1).to(device)


class Shift(nn.Module):
    """Moves each image by its own random number of whole pixels: no resampling, and hardly any time.

    Args:
        pixels: at most, in x and in y; what comes from outside of the image is black.

    Raises:
        ValueError: for an argument out of range.
    """

    @checked_arguments
    def __init__(self, pixels: Annotated[int, Field(ge=0)] = 2) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to such images."""
        count, _, height, width = images.shape
        windows = F.pad(images, [self.pixels] * 4).unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p+1, 2p+1, H, W)
        y, x = torch.randint(2 * self.pixels + 1, (2, count), device=images.device)
        return windows[torch.arange(count, device=images.device), :, y, x]


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
