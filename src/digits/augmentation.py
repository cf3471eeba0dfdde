"""Augmentation: kornia's batched modules, put together."""

from collections import OrderedDict

from torch import nn


def sequence(**steps: nn.Module) -> nn.Sequential:
    """The steps one after the other, each under its name: what a config can build and a command line reach into."""
    return nn.Sequential(OrderedDict(steps))
