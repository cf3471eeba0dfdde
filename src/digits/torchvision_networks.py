"""torchvision's networks with stems for small images. Apart from `digits.networks`, as torchvision takes a second."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import nn
from torchvision.models import DenseNet as TorchvisionDenseNet
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from digits.networks import Count, Layers, Probability, check_size
from digits.validation import checked_arguments


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
        check_size(image_size, halvings=3 + stem_pool)
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
        check_size(image_size, halvings=len(blocks) - 1 + stem_pool)
        super().__init__(growth_rate, tuple(blocks), init_channels, drop_rate=dropout, num_classes=num_classes)
        self.features.conv0 = nn.Conv2d(in_channels, init_channels, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.features.conv0.weight)  # as the other convolutions
        if not stem_pool:
            self.features.pool0 = nn.Identity()
