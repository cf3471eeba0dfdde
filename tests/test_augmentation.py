"""Augmentation: torchvision's transforms of single images are applied to each, and what does not work is refused."""

from pathlib import Path

import pytest
import torch
from conftest import Command
from test_configs import composed
from torch import Tensor, nn
from torchvision.transforms import Compose, InterpolationMode, RandomAffine, v2
from torchvision.transforms.v2 import functional as tv

from digits import build
from digits.augmentation import Digits, Shift, Steps, by_image
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.runs.run import Run

ROTATION = ["augmentation._target_=torchvision.transforms.v2.RandomRotation", "+augmentation.degrees=15"]


class Failing(nn.Module):
    """Fails for one batch in five, by chance."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.rand(()) < 0.2:
            raise RuntimeError("not implemented for Float")
        return images


class WrongTarget(nn.Module):
    def forward(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return images, target[:1]


@pytest.mark.parametrize(
    "augmentation",
    [
        v2.RandomRotation(15),
        RandomAffine(15),
        Compose([RandomAffine(15)]),
        Steps(blur=v2.GaussianBlur(3), rotation=v2.RandomRotation(15)),
        nn.Sequential(nn.Identity(), nn.Sequential(RandomAffine(15))),
    ],
)
def test_torchvisions_transforms_treat_each_image_differently(augmentation: object, sample: DigitsDataModule) -> None:
    images = sample.splits.val.images[:1].repeat(2, 1, 1, 1) / 255
    torch.manual_seed(1)  # two small angles may give the same pixels
    one, other = by_image(augmentation)(images)
    assert one.shape == images[0].shape
    assert not torch.equal(one, other)


def test_each_image_gets_what_it_would_get_alone(sample: DigitsDataModule) -> None:
    images = sample.splits.val.images[:3] / 255
    transform = v2.RandomRotation(15)
    torch.manual_seed(0)
    together = by_image(transform)(images)
    torch.manual_seed(0)
    assert torch.equal(together, torch.stack([transform(image) for image in images]))


def built(tmp_path: Path, *overrides: str) -> DigitsDataModule:
    return build.data(composed("data=mnist5k", *overrides), Run(tmp_path))


def test_it_is_tried_out_without_drawing_the_runs_random_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data = built(tmp_path, *ROTATION, "mixing=mixup")
    assert torch.equal(torch.get_rng_state(), before)
    one, other = data.augmentation(torch.eye(28).expand(2, 1, 28, 28))
    assert not torch.equal(one, other)
    _, target = data.mixing(torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 9]))
    assert target.shape == (4, 10)
    assert torch.allclose(target.sum(dim=1), torch.ones(4))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augmentation._target_=torchvision.transforms.v2.Grayscale", "+augmentation.num_output_channels=3"],
         r"augmentation._target_=.*Grayscale: makes torch.float32 \(2, 3, 28, 28\) of images torch.float32 \(2, 1, 28"),
        (["augmentation._target_=torchvision.transforms.v2.CenterCrop", "+augmentation.size=20"], "20, 20"),
        (["augmentation._target_=test_augmentation.Failing"],
         "augmentation._target_=test_augmentation.Failing: RuntimeError: not implemented for Float"),
        (["mixing._target_=torch.nn.Linear", "+mixing.in_features=1", "+mixing.out_features=1"],
         "mixing._target_=torch.nn.Linear: TypeError"),
        (["mixing._target_=test_augmentation.WrongTarget"], r"mixing.*WrongTarget: makes a target \(1,\)"),
    ],
)  # fmt: skip
def test_what_makes_no_such_batch_is_named(tmp_path: Path, overrides: list[str], message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=message) as error:
        built(tmp_path, *overrides)
    assert "\n" not in str(error.value)


def test_a_refused_augmentation_reads_no_data(command: Command, tmp_path: Path) -> None:
    words = ["augmentation._target_=torchvision.transforms.v2.JPEG", "+augmentation.quality=50"]
    outcome = command("train", f"data.root={tmp_path / 'nowhere'}", "data.offline_fallback=false", *words)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: augmentation._target_=torchvision.transforms.v2.JPEG: ")


def _drawn(monkeypatch: pytest.MonkeyPatch, **draws: float) -> None:
    """Has `Digits` draw these amounts, of -1 to 1, and 0 for the others."""
    names = ["angle", "slant", "wide", "high", "right", "down"]
    values = torch.tensor([(draws.get(name, 0.0) + 1) / 2 for name in names])
    monkeypatch.setattr(torch, "rand", lambda rows, count, **_: values[:, None].expand(rows, count))


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        ({"angle": 1}, {"angle": -20.0}),
        ({"right": -0.5, "down": 1}, {"translate": [2, -3]}),
        ({"slant": 0.5}, {"shear": [8.0, 0.0]}),
    ],
)
def test_digits_agrees_with_torchvisions_affine(
    draws: dict[str, float], expected: dict, monkeypatch: pytest.MonkeyPatch, sample: DigitsDataModule
) -> None:
    images = sample.splits.val.images[:8].float() / 255
    augmentation = Digits(degrees=20, translate=3 / 28, scale=0.2, shear=16, elastic=0)
    _drawn(monkeypatch, **({"right": -2 / 3, "down": 1} if "right" in draws else draws))
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | expected
    reference = tv.affine(images, **settings, interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(augmentation(images), reference, atol=2e-3, rtol=0)


def test_digits_scales_width_and_height_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(1, 1, 28, 28)
    images[..., 8:20, 8:20] = 1
    _drawn(monkeypatch, wide=1, high=-0.5)
    scaled = Digits(degrees=0, translate=0, scale=0.25, shear=0, elastic=0)(images)[0, 0]
    assert scaled[14].sum() == pytest.approx(12 / 1.25, abs=0.3)  # places are 1.25 times as far apart: narrower
    assert scaled[:, 14].sum() == pytest.approx(12 / 0.875, abs=0.3)


def test_bending_moves_by_the_grids_displacements(monkeypatch: pytest.MonkeyPatch, sample: DigitsDataModule) -> None:
    """A grid whose points all move alike is a shift, as cubic splines keep constants."""
    images = sample.splits.val.images[:4].float() / 255
    _drawn(monkeypatch)
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.ones(shape))
    bent = Digits(degrees=0, translate=0, scale=0, shear=0, elastic=2)(images)
    torch.testing.assert_close(bent[..., :-2, :-2], images[..., 2:, 2:], atol=1e-4, rtol=0)
    assert bent[..., -2:, :].abs().max() < 1e-4


def test_bending_leaves_the_digits_place_as_it_is(sample: DigitsDataModule) -> None:
    """Over many draws, displacements have mean 0 and the standard deviation that was asked for."""
    torch.manual_seed(0)
    row, column = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    images = torch.stack([row, column])[None].repeat(3000, 1, 1, 1)
    bent = Digits(degrees=0, translate=0, scale=0, shear=0, elastic=0.7, cells=5)(images)
    moved = bent[..., 14, 14] - images[..., 14, 14]  # between the grid's points, where a spline is a mean of them
    assert moved.mean().abs() < 0.05
    assert 0.4 < moved.std() < 0.8


def test_shift_moves_by_whole_pixels(sample: DigitsDataModule) -> None:
    torch.manual_seed(0)
    image = sample.splits.val.images[0].float() / 255
    shifted = Shift(2)(image.repeat(500, 1, 1, 1))
    padded = nn.functional.pad(image, [2] * 4)
    windows = {padded[:, y : y + 28, x : x + 28].numpy().tobytes() for y in range(5) for x in range(5)}
    assert {one.numpy().tobytes() for one in shifted} == windows


@pytest.mark.parametrize(
    ("kind", "arguments"), [(Digits, {"translate": 1.5}), (Digits, {"cells": 1}), (Shift, {"pixels": -1})]
)
def test_amount_out_of_range_is_named(kind: type, arguments: dict) -> None:
    [(name, value)] = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        kind(**arguments)
