"""Networks: plain nn.Modules from normalised images to logits. No Lightning and no Hydra in here."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import DenseNet as TorchvisionDenseNet
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from digits.validation import checked_arguments

Count = Annotated[int, Field(ge=1)]
Counts = Annotated[Sequence[Count], Field(min_length=1)]
Layers = Annotated[int, Field(ge=1, le=1000)]  # of a block: a file must not ask for endless ones
Probability = Annotated[float, Field(ge=0, le=1)]


class CNN(nn.Module):
    """The convolutional network of the tutorials, with its usual knobs.

    Each width in `channels` is one block: a 3×3 convolution, (batch norm,) a 2×2 max pool and ReLU. A linear
    layer of `hidden` units, dropout and a linear layer to the logits follow. The defaults have 421,642
    parameters: 320 + 18,496 in the convolutions, 401,536 + 1,290 in the linear layers. (The 122,000 or so that
    are often quoted for this network are wrong.)

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        image_size: height and width of the images, in pixels.
        channels: width of each convolution; three numbers make three convolutions.
        hidden: units of the hidden linear layer.
        dropout: probability, in [0, 1], of dropping a hidden unit in training.
        batch_norm: normalise each convolution's output over the batch.
        strided_stem: a 5×5 convolution of stride 2 in place of the first 3×3 convolution and its pooling: a quarter
            of the work where there are most pixels.

    Raises:
        ValueError: for an argument out of range, or more blocks than the image can be halved.
    """

    @checked_arguments
    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
        channels: Counts = (32, 64),
        hidden: Count = 128,
        dropout: Probability = 0.5,
        batch_norm: bool = False,
        strided_stem: bool = False,
    ) -> None:
        super().__init__()
        _check_size(image_size + strided_stem, len(channels))  # a pooling rounds down, the stem up
        size = image_size + strided_stem >> len(channels)

        blocks: list[nn.Module] = []
        for width_in, width_out in zip([in_channels, *channels], channels, strict=False):
            strided = strided_stem and not blocks
            kernel, stride = (5, 2) if strided else (3, 1)
            # A bias in front of batch norm would be subtracted again.
            blocks.append(nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=not batch_norm))
            if batch_norm:
                blocks.append(nn.BatchNorm2d(width_out))
            # ReLU is monotonic, so pooling first gives the same function with a quarter of the ReLUs.
            blocks += [nn.ReLU()] if strided else [nn.MaxPool2d(2), nn.ReLU()]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * size * size, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (B, in_channels, image_size, image_size) to logits (B, num_classes)."""
        features = self.features(images)  # (B, 64, 7, 7) by default
        return self.head(features)


class ResNet18(ResNet):
    """torchvision's ResNet-18 with a stem for small images.

    The original's 7×7 convolution of stride 2, made for 224 pixels, would leave 7×7 pixels of a digit before the
    first block. Here a 3×3 convolution of stride 1 keeps them all, and `stem_pool` halves them once.

    Source: He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        image_size: height and width of the images, in pixels.
        blocks: residual blocks in each of the four stages, of 64, 128, 256 and 512 channels.
        dropout: probability, in [0, 1], of dropping a feature in front of the last layer, in training.
        stem_pool: halve the image in front of the first block; without it the network takes four times as long.

    Raises:
        ValueError: for an argument out of range.
    """

    fc: nn.Module

    @checked_arguments
    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
        blocks: Annotated[Sequence[Layers], Field(min_length=4, max_length=4)] = (2, 2, 2, 2),
        dropout: Probability = 0.0,
        stem_pool: bool = True,
    ) -> None:
        _check_size(image_size, halvings=3 + stem_pool)
        super().__init__(BasicBlock, list(blocks), num_classes=num_classes)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as the other convolutions
        if not stem_pool:
            self.maxpool = nn.Identity()
        self.fc = nn.Sequential(nn.Dropout(dropout), self.fc)


class DenseNet(TorchvisionDenseNet):
    """torchvision's DenseNet-BC with a stem for small images, as ResNet18 has it.

    The defaults make a small one; `growth_rate=32 blocks=[6,12,24,16] init_channels=64` is DenseNet-121.

    Source: Huang et al., Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        image_size: height and width of the images, in pixels.
        growth_rate: channels that each layer of a block adds.
        blocks: layers in each block; between two blocks, image and channels are halved.
        init_channels: channels of the stem.
        dropout: probability, in [0, 1], of dropping an output of each layer, in training, as in the paper.
        stem_pool: halve the image in front of the first block; without it the network takes four times as long.

    Raises:
        ValueError: for an argument out of range.
    """

    @checked_arguments
    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
        growth_rate: Count = 16,
        blocks: Annotated[Sequence[Layers], Field(min_length=1)] = (4, 6, 6),
        init_channels: Count = 32,
        dropout: Probability = 0.0,
        stem_pool: bool = True,
    ) -> None:
        _check_size(image_size, halvings=len(blocks) - 1 + stem_pool)
        super().__init__(growth_rate, tuple(blocks), init_channels, drop_rate=dropout, num_classes=num_classes)
        self.features.conv0 = nn.Conv2d(in_channels, init_channels, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.features.conv0.weight)  # as the other convolutions
        if not stem_pool:
            self.features.pool0 = nn.Identity()


class Ensemble(nn.Module):
    """Several networks as one, which answers with the mean of their probabilities.

    Args:
        members: networks from the same images to the same classes.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (B, C, H, W) to the logarithms of the mean probabilities (B, num_classes)."""
        logits = [member(images.to(next(member.parameters()).dtype)).float() for member in self.members]
        log_probabilities = torch.stack(logits).log_softmax(dim=2)  # (members, B, num_classes)
        return log_probabilities.logsumexp(dim=0) - math.log(len(self.members))


class AveragedViews(nn.Module):
    """A network that looks again at images that it is unsure of: its mean probabilities for views of them count.

    The probabilities are those that calibration states, in the choice of these images and in the mean. Exported, it
    computes all views of all images, as a graph has no choice by its data.

    Args:
        network: from normalised images to logits.
        views: shift to the right and down in pixels, and turn in degrees, of each; the image itself is one of them.
        below: the highest probability of an answer that is looked at again.
        temperature: by which the logits are divided for calibrated probabilities.
    """

    def __init__(
        self, network: nn.Module, views: Sequence[tuple[float, float, float]], below: float, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.network, self.below, self.temperature = network, below, temperature
        self.views = [view for view in views if any(view)]

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (B, C, H, W) to logits (B, num_classes), to be divided by the temperature."""
        if torch.compiler.is_compiling():
            all_views = torch.cat([images[None], self._seen(images)])  # (V, B, C, H, W)
            answers = self._answers(all_views.flatten(0, 1)).unflatten(0, (len(self.views) + 1, -1))
            unsure = self._unsure(answers[0])
            return self.temperature * torch.where(unsure[:, None], _mean(answers), answers[0])
        answers = self._answers(images)
        unsure = self._unsure(answers)
        if unsure.any():
            again = self._seen(images[unsure]).flatten(0, 1)
            parts = [self._answers(part) for part in again.split(max(len(images), 256))]  # as memory is known to hold
            of_views = torch.cat(parts).unflatten(0, (len(self.views), -1))  # (V, B, num_classes)
            answers[unsure] = _mean(torch.cat([answers[None, unsure], of_views]))
        return self.temperature * answers

    def _answers(self, images: Tensor) -> Tensor:
        """The logarithms of the calibrated probabilities (B, num_classes)."""
        return (self.network(images).float() / self.temperature).log_softmax(dim=1)

    def _unsure(self, answers: Tensor) -> Tensor:
        return answers.amax(dim=1) < math.log(self.below)  # (B,)

    def _seen(self, images: Tensor) -> Tensor:
        """The views but the image itself (V, B, C, H, W), their borders filled with the nearest pixels."""
        batch, channels, height, width = images.shape  # of len() an exporter would make a constant
        angles = [math.radians(turn) for _, _, turn in self.views]
        theta = [
            [[math.cos(angle), -math.sin(angle), -2 * x / width], [math.sin(angle), math.cos(angle), -2 * y / height]]
            for angle, (x, y, _) in zip(angles, self.views, strict=True)
        ]
        size = [len(theta), 1, height, width]
        grid = F.affine_grid(torch.tensor(theta, device=images.device), size, align_corners=False)  # (V, H, W, 2)
        # All images as the channels of one: a view is the same for all.
        flat = images.float().reshape(1, batch * channels, height, width).expand(len(theta), -1, -1, -1)
        seen = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
        return seen.reshape(len(theta), batch, channels, height, width).to(images.dtype)


def _mean(answers: Tensor) -> Tensor:
    """Of the logarithms of probabilities (V, B, num_classes), the logarithm of their means."""
    return answers.logsumexp(dim=0) - math.log(len(answers))


class RawPixels(nn.Module):
    """A network for images as files have them, with the normalisation inside: what leaves the project.

    Args:
        network: from normalised images to logits.
        mean: of each channel, subtracted from the pixels in [0, 1].
        std: of each channel, by which they are then divided.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps pixels (B, C, H, W) from 0 to 255 to logits (B, num_classes)."""
        return self.network((pixels.float() / 255 - self.mean) / self.std)


class Gated(nn.Module):
    """A network with its gate, both for images as files have them.

    Args:
        network: from pixels to logits, as `RawPixels`.
        gate: from the same to the logit of being one of the classes at all.
    """

    def __init__(self, network: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.network, self.gate = network, gate

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Maps pixels (B, C, H, W) from 0 to 255 to logits (B, num_classes) and (B,)."""
        return self.network(pixels), self.gate(pixels)


def _check_size(image_size: int, halvings: int) -> None:
    if image_size >> halvings < 1:
        raise ValueError(f"{halvings} halvings leave nothing of {image_size} pixels")
