"""A network that takes other images than the data has. Apart from the networks, whose torchvision takes a second."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from digits.validation import checked_arguments

Count = Annotated[int, Field(ge=1)]


def inner(network: nn.Module) -> nn.Module:
    """The network itself: what is inside of a `Resized`."""
    return network.network if isinstance(network, Resized) else network


class Resized(nn.Module):
    """A network that takes other images than the data has: they are resized first, and grey is repeated for RGB.

    Args:
        network: from normalised images (B, channels, image_size, image_size) to logits.
        image_size: height and width that it takes, in pixels; None: as the images are.
        channels: that it takes; None: as the images are.

    Raises:
        ValueError: for an argument out of range.
    """

    @checked_arguments
    def __init__(self, network: nn.Module, image_size: Count | None = None, channels: Count | None = None) -> None:
        super().__init__()
        self.network = network
        self.image_size, self.channels = image_size, channels

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (B, C, H, W) to logits (B, num_classes)."""
        if self.channels and images.shape[1] == 1:
            images = images.expand(-1, self.channels, -1, -1)
        if self.image_size and images.shape[2] != self.image_size:
            size, smaller = (self.image_size, self.image_size), self.image_size < images.shape[2]
            images = F.interpolate(images, size, mode="bilinear", antialias=smaller)
        return self.network(images)
