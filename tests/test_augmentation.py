"""Augmentation: torchvision's transforms of single images are applied to each, and what does not work is refused."""

from pathlib import Path

import pytest
import torch
from conftest import Command
from test_configs import composed
from torch import Tensor, nn
from torchvision.transforms import Compose, RandomAffine, v2

from digits import build
from digits.augmentation import Steps, by_image
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
