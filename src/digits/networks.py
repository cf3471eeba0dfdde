"""Networks: plain nn.Modules from normalised images to logits. No Lightning and no Hydra in here."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from digits.validation import checked_arguments

if TYPE_CHECKING:
    from digits.torchvision_networks import DenseNet, ResNet18

__all__ = ["CNN", "DenseNet", "Ensemble", "Gated", "RawPixels", "ResNet18"]

Count = Annotated[int, Field(ge=1)]
Counts = Annotated[Sequence[Count], Field(min_length=1)]
Layers = Annotated[int, Field(ge=1, le=1000)]  # of a block: a file must not ask for endless ones
Probability = Annotated[float, Field(ge=0, le=1)]


def __getattr__(name: str) -> Any:
    if name in ("DenseNet", "ResNet18"):  # lazily: other networks should not wait a second for torchvision
        from digits import torchvision_networks

        return getattr(torchvision_networks, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


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
        check_size(image_size + strided_stem, len(channels))  # a pooling rounds down, the stem up
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


def check_size(image_size: int, halvings: int) -> None:
    """Refuses more halvings than an image has.

    Raises:
        ValueError: if nothing would be left of it.
    """
    if image_size >> halvings < 1:
        raise ValueError(f"{halvings} halvings leave nothing of {image_size} pixels")
