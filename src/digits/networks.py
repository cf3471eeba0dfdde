"""Networks: plain nn.Modules from normalised images to logits. No Lightning and no Hydra in here."""

from collections.abc import Sequence

from torch import Tensor, nn


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

    Raises:
        ValueError: for an argument out of range, or more blocks than the image can be halved.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
        channels: Sequence[int] = (32, 64),
        hidden: int = 128,
        dropout: float = 0.5,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ValueError(f"channels={list(channels)}: give at least one width, each 1 or more")
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: give 1 or more units")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout}: a probability lies between 0 and 1")
        size = image_size >> len(channels)
        if size < 1:
            raise ValueError(
                f"channels={list(channels)}: {len(channels)} poolings leave nothing of {image_size} pixels"
            )

        blocks: list[nn.Module] = []
        for width_in, width_out in zip([in_channels, *channels], channels, strict=False):
            # A bias in front of batch norm would be subtracted again.
            blocks.append(nn.Conv2d(width_in, width_out, kernel_size=3, padding=1, bias=not batch_norm))
            if batch_norm:
                blocks.append(nn.BatchNorm2d(width_out))
            # ReLU is monotonic, so pooling first gives the same function with a quarter of the ReLUs.
            blocks += [nn.MaxPool2d(2), nn.ReLU()]
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
