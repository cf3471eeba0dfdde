"""Networks: plain nn.Modules from normalised images to logits. No Lightning and no Hydra in here."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from digits.validation import checked_arguments

if TYPE_CHECKING:
    from digits.torchvision_networks import DenseNet, ResNet18

__all__ = [
    "CNN",
    "AveragedViews",
    "DenseNet",
    "Ensemble",
    "Gated",
    "RawPixels",
    "ResNet18",
    "StagedCNN",
    "Whitening",
]

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


class Whitening(nn.Conv2d):
    """A convolution that is not trained. On the images it was fitted to, the first half of its outputs are uncorrelated
    and of variance 1; the second half are their negatives.

    `digits.build` fits the one in a network that is to be trained; a script of one's own calls `fit`.

    Source: Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, https://arxiv.org/abs/2404.00498.

    Args:
        in_channels: channels of the images.
        size: height and width of a patch, in pixels.
        stride: between patches, in pixels.
    """

    weight: Tensor

    def __init__(self, in_channels: int, size: int, stride: int) -> None:
        outputs = 2 * in_channels * size**2
        super().__init__(in_channels, outputs, size, stride, padding=(size - stride + 1) // 2, bias=False)
        nn.init.orthogonal_(self.weight)  # until it is fitted
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, images: Tensor, epsilon: float = 5e-4) -> None:
        """Takes the filters from the patches of images (B, in_channels, H, W).

        Args:
            images: as the layer gets them.
            epsilon: added to the variances, so that what hardly varies is not blown up.
        """
        patches = F.unfold(images.double(), self.kernel_size).transpose(1, 2).flatten(0, 1)  # (patches, C·k·k)
        variances, directions = torch.linalg.eigh(patches.T.cov())
        filters = (directions / (variances + epsilon).sqrt()).T.flip(0).view(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a factor that depends on the means of all channels.

    Source: Hu et al., Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507.

    Args:
        channels: of the features.
        units: of the hidden layer.
    """

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        layers = nn.Linear(channels, units), nn.ReLU(), nn.Linear(units, channels), nn.Sigmoid()
        self.factors = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (B, channels, H, W) to such features."""
        means = F.avg_pool2d(features, features.shape[2:]).flatten(1)  # mean() takes a twentieth of a step more
        return features * self.factors(means)[:, :, None, None]


class StagedCNN(nn.Module):
    """Stages of 3×3 convolutions, each with batch norm and ReLU; behind them one value for each channel.

    The convolutions begin as partial identities, so that a deep network learns from its first step on.

    Source: Keller Jordan's airbench, https://arxiv.org/abs/2404.00498, for the whitening, the stages and their start.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        image_size: height and width of the images, in pixels.
        widths: channels of each stage.
        convolutions: in each stage.
        pooled: whether the first convolution of a stage is followed by a 2×2 max pool.
        crop: pixels that are cut off at each edge of the images, where they show nothing.
        whitening: height and width, in pixels, of the patches of a `Whitening` in front; 0: none.
        stride: of the whitening.
        squeeze: channels for each unit of the `SqueezeExcitation` at the end of a stage; 0: none.
        momentum: share of a batch's statistics in those that batch norm keeps.
        head: what becomes of a channel: its largest value, or its mean.
        dropout: probability, in [0, 1], of dropping a channel in front of the last layer, in training.

    Raises:
        ValueError: for an argument out of range, or stages that do not go together.
    """

    @checked_arguments
    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
        widths: Counts = (32, 64, 128),
        convolutions: Annotated[Sequence[Layers], Field(min_length=1)] = (2, 2, 1),
        pooled: Sequence[bool] = (True, True, False),
        crop: Annotated[int, Field(ge=0)] = 0,
        whitening: Annotated[int, Field(ge=0, le=7)] = 2,
        stride: Count = 2,
        squeeze: Annotated[int, Field(ge=0)] = 0,
        momentum: Probability = 0.1,
        head: Literal["max", "mean"] = "max",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        if not len(widths) == len(convolutions) == len(pooled):
            raise ValueError(
                f"widths, convolutions and pooled: give one of each for each stage, not {len(widths)},"
                f" {len(convolutions)} and {len(pooled)}"
            )
        if whitening and stride > whitening + 1:
            raise ValueError(f"stride={stride}: between patches of {whitening} pixels at most {whitening + 1}")
        check_size((image_size - 2 * crop) // (stride if whitening else 1), sum(pooled))
        channels = in_channels
        self.features = nn.Sequential(*([nn.ZeroPad2d(-crop)] if crop else []))
        if whitening:
            self.features.append(Whitening(in_channels, whitening, stride))
            channels = 2 * in_channels * whitening**2
        for width, count, pool in zip(widths, convolutions, pooled, strict=True):
            for place in range(count):
                convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                nn.init.dirac_(convolution.weight[: min(channels, width)].detach())
                self.features.append(convolution)
                if pool and place == 0:
                    self.features.append(nn.MaxPool2d(2))
                self.features.extend([nn.BatchNorm2d(width, momentum=momentum), nn.ReLU(inplace=True)])
                channels = width
            if squeeze:
                self.features.append(SqueezeExcitation(width, max(1, width // squeeze)))
        # amax() and mean() are the same numbers, but their gradients take a tenth of a step of a CPU.
        self.pool = F.max_pool2d if head == "max" else F.avg_pool2d
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (B, in_channels, image_size, image_size) to logits (B, num_classes)."""
        features = self.features(images)
        return self.head(self.pool(features, features.shape[2:]).flatten(1))


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
            answers = answers.index_put((unsure,), _mean(torch.cat([answers[None, unsure], of_views])))
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


def check_size(image_size: int, halvings: int) -> None:
    """Refuses more halvings than an image has.

    Raises:
        ValueError: if nothing would be left of it.
    """
    if image_size >> halvings < 1:
        raise ValueError(f"{halvings} halvings leave nothing of {image_size} pixels")
