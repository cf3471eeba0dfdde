"""Augmentation by textures: images stay images, each step keeps to what it says."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from digits import textures
from digits.data import DigitsDataModule
from digits.overrides import CONFIGS

STEPS = [
    *(textures.Warp, textures.RandomConvolution, textures.Background, textures.Waves),
    *(textures.Scribbles, textures.Tones, textures.Illumination),
]


@pytest.fixture
def images(sample: DigitsDataModule) -> torch.Tensor:
    torch.manual_seed(0)
    return sample.splits.test.images[:50].float() / 255


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(images: torch.Tensor, step: type[torch.nn.Module], channels: int) -> None:
    found = step()(images.repeat(1, channels, 1, 1))
    assert found.shape == (50, channels, 28, 28)
    assert found.dtype == torch.float32
    assert found.min() >= -1e-5
    assert found.max() <= 1 + 1e-5
    assert (found - images).abs().amax(dim=(1, 2, 3)).gt(0.01).sum() > 40  # each by its own numbers
    if channels == 3:  # grey stays grey
        assert torch.allclose(found[:, 0], found[:, 1], atol=1e-5)


def test_a_warp_neither_shifts_turns_scales_nor_shears() -> None:
    """Images of their own places show the displacements: least squares finds no affine part in them."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 28), torch.linspace(0, 1, 28), indexing="ij")
    places = torch.stack([rows, columns]).expand(20, 2, 28, 28)
    torch.manual_seed(0)
    moved = (textures.Warp(pixels=0.3)(places) - places)[:, :, 3:-3, 3:-3]  # the edges reach outside
    inner = torch.stack([torch.ones(28, 28), rows, columns])[:, 3:-3, 3:-3].flatten(1).T
    found = torch.linalg.lstsq(inner.expand(20, -1, -1), moved.flatten(2).mT).solution  # (20, 3, 2)
    assert moved.std() > 0.003
    assert found[:, 0].mean().abs() < 0.003
    assert found[:, 1:].mean(dim=0).abs().max() < 0.01


def test_share(images: torch.Tensor) -> None:
    found = textures.Share(0.25, black=torch.nn.Threshold(2, 0))(images.repeat(20, 1, 1, 1))
    assert found.amax(dim=(1, 2, 3)).eq(0).float().mean() == pytest.approx(0.25, abs=0.05)


def test_the_config_makes_images(images: torch.Tensor) -> None:
    augmentation = instantiate(OmegaConf.load(CONFIGS / "augmentation" / "textures.yaml"), _convert_="all")
    found = augmentation(images)
    assert found.shape == images.shape
    assert found.isfinite().all()
