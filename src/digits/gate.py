"""The gate's network: how likely an image is one of the classes at all. `digits.rejection` trains it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 28  # pixels of the images that it looks at; others are resized


class Gate(nn.Module):
    """Maps pixels (B, C, H, W) from 0 to 255 to the logit (B,) of being one of the classes.

    It has a class for the strangers besides the data set's, and compares that one with all of these together: to tell
    them apart teaches it what they look like.

    Args:
        channels: of the images.
        num_classes: of the data set.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 5, stride=2, padding=2, bias=False),  # (B, 16, 14, 14)
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.MaxPool2d(2),  # (B, 32, 7, 7)
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.MaxPool2d(2),  # (B, 64, 3, 3)
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(64 * 9, 64), nn.ReLU(), nn.Linear(64, num_classes + 1))
        # Platt's scaling of its logit
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def classes(self, pixels: Tensor) -> Tensor:
        """Maps pixels (B, C, H, W) from 0 to 255 to logits (B, num_classes + 1), the strangers' at the end."""
        images, side = pixels.float() / 255, pixels.shape[-1]
        if side >= 2 * SIDE:
            images = F.avg_pool2d(images, side // SIDE)
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear")
        return self.head(self.features(images))

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.classes(pixels)
        return self.scale * (logits[:, :-1].logsumexp(dim=1) - logits[:, -1]) + self.shift


@torch.inference_mode()
def known_logits(gate: Gate, images: Tensor) -> Tensor:
    """Of images (N, C, H, W), uint8: float32 (N,), on the CPU."""
    device = next(gate.parameters()).device
    return torch.cat([gate(batch.to(device)).cpu() for batch in images.split(1000)])
