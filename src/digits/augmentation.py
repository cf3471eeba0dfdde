"""Augmentation: kornia's batched modules, put together."""

from collections import OrderedDict

from torch import nn


class Steps(nn.Sequential):
    """The steps one after the other, each under its name: a command line can reach into them.

    Args:
        steps: modules on images (B, C, H, W) in [0, 1].
    """

    def __init__(self, **steps: nn.Module) -> None:
        super().__init__(OrderedDict(steps))
