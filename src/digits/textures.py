"""Augmentation by textures, light and warps: none of these steps is one of the corruptions of `digits.corruptions`.

No step turns, scales, shears, shifts or blurs an image, adds noise that is independent from pixel to pixel, or draws
straight lines. docs/trust.md says how near the steps come all the same. Each is a module on images (B, C, H, W) in
[0, 1], and draws its own random numbers for each image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digits.augmentation import Steps


class Share(nn.Module):
    """Applies the steps to a share of the images; the others stay as they are.

    Args:
        share: of the images, each by chance.
        steps: as of `Steps`.
    """

    def __init__(self, share: float, **steps: nn.Module) -> None:
        super().__init__()
        self.share, self.steps = share, Steps(**steps)

    def forward(self, images: Tensor) -> Tensor:
        return torch.where(_uniform(images) < self.share, self.steps(images), images)


def _uniform(images: Tensor, low: float = 0, high: float = 1) -> Tensor:
    """A random number for each image: (B, 1, 1, 1)."""
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, device=images.device)


def smooth_noise(images: Tensor, cells: Sequence[int] = (3, 6, 12)) -> Tensor:
    """Noise (B, 1, H, W) of mean 0 and sd 1 for each image: random grids, interpolated, added up by random weights.

    Args:
        images: (B, C, H, W), of which it gets size and device.
        cells: of the grids: three of them vary over a third of the image.
    """
    total = torch.zeros(len(images), 1, *images.shape[-2:], device=images.device)
    for count in cells:
        grid = torch.randn(len(images), 1, count, count, device=images.device)
        smooth = F.interpolate(grid, images.shape[-2:], mode="bicubic", align_corners=True)
        total = total + _uniform(images) * smooth
    sd, mean = torch.std_mean(total, dim=(1, 2, 3), keepdim=True)
    return (total - mean) / sd.clamp(min=1e-6)


class Warp(nn.Module):
    """Moves the pixels by smooth random fields that have no affine part.

    What least squares finds of shift, rotation, scaling and shear in a field is taken out of it.

    Args:
        pixels: largest sd of the displacements, of an image of 28×28; each image has its own, from 0.
        cells: of the fields: see `smooth_noise`.
    """

    def __init__(self, pixels: float = 1.5, cells: Sequence[int] = (3, 6, 9)) -> None:
        super().__init__()
        self.pixels, self.cells = pixels, tuple(cells)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        line = [torch.linspace(-1, 1, side, device=images.device) for side in (height, width)]
        rows, columns = torch.meshgrid(*line, indexing="ij")
        affine = torch.stack([torch.ones_like(rows), rows, columns]).flatten(1)  # (3, H·W)
        basis = affine / affine.norm(dim=1, keepdim=True)  # orthogonal, as the places are symmetrical
        fields = torch.cat([smooth_noise(images, self.cells) for _ in range(2)], dim=1).flatten(2)  # (B, 2, H·W)
        fields = fields - (fields @ basis.mT) @ basis
        reach = _uniform(images, 0, self.pixels * 2 / 28).view(-1, 1, 1)  # the image is 2 wide
        moved = (reach * fields).view(count, 2, height, width).permute(0, 2, 3, 1)
        return F.grid_sample(images, torch.stack([columns, rows], dim=-1) + moved, align_corners=True)


class RandomConvolution(nn.Module):
    """Mixes each image with what a random filter makes of it, scaled to [0, 1].

    Source: Xu et al., Robust and Generalizable Visual Representation Learning via Random Convolutions,
    https://arxiv.org/abs/2007.13003.

    Args:
        sizes: of the filters, in pixels; one for each batch, by chance.
    """

    def __init__(self, sizes: Sequence[int] = (3, 5, 7)) -> None:
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, images: Tensor) -> Tensor:
        count, channels, *_ = images.shape
        size = self.sizes[int(torch.randint(len(self.sizes), ()))]
        weights = torch.randn(count, 1, size, size, device=images.device).repeat_interleave(channels, dim=0)
        flat = F.pad(images, [size // 2] * 4, mode="replicate").flatten(0, 1)[None]  # (1, B·C, H, W)
        filtered = F.conv2d(flat, weights, groups=count * channels).view_as(images)
        low, high = filtered.amin((1, 2, 3), keepdim=True), filtered.amax((1, 2, 3), keepdim=True)
        return torch.lerp(images, (filtered - low) / (high - low).clamp(min=1e-6), _uniform(images))


class Background(nn.Module):
    """Lightens an image where a smooth random texture is light: as a screen does, so that ink stays lighter.

    Args:
        most: of the texture, where it is lightest; each image has its own, from 0.
    """

    def __init__(self, most: float = 0.8) -> None:
        super().__init__()
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        texture = _uniform(images, 0, self.most) * (2 * smooth_noise(images)).sigmoid()
        return images + (1 - images) * texture


class Waves(nn.Module):
    """Adds a few plane waves of any length and direction, or paints their crests in one grey, as a print's raster.

    Source of the waves: Yin et al., A Fourier Perspective on Model Robustness, https://arxiv.org/abs/1906.08988.

    Args:
        count: of the waves.
        most: of the amplitude, each image's from 0.
    """

    def __init__(self, count: int = 4, most: float = 0.5) -> None:
        super().__init__()
        self.count, self.most = count, most

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        shape = (len(images), self.count, 1, 1)
        # A wave of pi is as fine as pixels can show: light and dark by turns.
        down, right, phase = (torch.pi * (2 * torch.rand(shape, device=images.device) - 1) for _ in range(3))
        rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
        waves = torch.cos(down * rows[:, None] + right * columns + phase)  # (B, count, H, W)
        waves = waves.sum(dim=1, keepdim=True) * (2 / self.count) ** 0.5  # of sd 1
        added = images + _uniform(images, 0, self.most) * waves
        crests = waves > _uniform(images, 1, 2)
        painted = torch.where(crests, _uniform(images).round(), images)
        return torch.where(_uniform(images) < 0.5, added, painted).clamp(0, 1)


class Scribbles(nn.Module):
    """Draws pieces of curved lines in one grey: where a smooth random field crosses zero, and a second one is high.

    Args:
        width: of the lines, about, as a share of the field's sd.
        threshold: of the second field, in its sd: the higher, the fewer.
        cells: of the fields: see `smooth_noise`.
    """

    def __init__(self, width: float = 0.3, threshold: float = 0.3, cells: Sequence[int] = (3, 6)) -> None:
        super().__init__()
        self.width, self.threshold, self.cells = width, threshold, tuple(cells)

    def forward(self, images: Tensor) -> Tensor:
        line = (-((smooth_noise(images, self.cells) / self.width) ** 2)).exp()
        where = (8 * (smooth_noise(images, self.cells) - self.threshold)).sigmoid()
        return torch.lerp(images, _uniform(images).expand_as(images), line * where)


class Tones(nn.Module):
    """Gives each grey another one, by a random curve: outlines, negatives and flat tones among them.

    Args:
        knots: of the curve, which is straight between them.
    """

    def __init__(self, knots: int = 4) -> None:
        super().__init__()
        self.knots = knots

    def forward(self, images: Tensor) -> Tensor:
        tones = torch.rand(len(images), self.knots, device=images.device)
        place = images.flatten(1).clamp(0, 1) * (self.knots - 1)  # (B, C·H·W)
        below = place.floor().clamp(max=self.knots - 2)
        low, high = (tones.gather(1, below.long() + step) for step in (0, 1))
        return torch.lerp(low, high, place - below).view_as(images)


class Illumination(nn.Module):
    """Changes the contrast from place to place by a smooth random field, down to none and on to the negative."""

    def forward(self, images: Tensor) -> Tensor:
        contrast = _uniform(images, -1, 1) + _uniform(images) * smooth_noise(images, (2, 3))
        return 0.5 + (images - 0.5) * contrast.clamp(-1, 1)
