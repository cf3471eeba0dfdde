"""The data module: normalisation, and the settings that make the same data again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import write_folder
from PIL import Image
from torchvision.transforms import v2

from digits.data import DigitsDataModule
from digits.data.datasets import Mnist5k
from digits.data.images import pixel_statistics
from digits.errors import UserError
from digits.report import class_counts, data_statistics


def test_pixel_statistics_are_computed_where_none_are_given(sample: DigitsDataModule) -> None:
    data = DigitsDataModule("mnist5k", mean=None, std=None)
    pixels = data.splits.train.images.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()])
    assert data.std == pytest.approx([pixels.std(correction=0).item()])
    assert sample.mean == [0.1307]


def test_splits_are_loaded_when_they_are_asked_for(sample: DigitsDataModule) -> None:
    data = DigitsDataModule("mnist5k")
    assert data.split_sizes == sample.split_sizes
    assert data.fingerprint == sample.fingerprint


def test_pixel_statistics_by_channel() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8))
    images[:, 1] //= 3
    mean, std = pixel_statistics(images)
    pixels = images.double().permute(1, 0, 2, 3).flatten(1) / 255
    assert mean == pytest.approx(pixels.mean(dim=1).tolist())
    assert std == pytest.approx(pixels.std(dim=1, correction=0).tolist())


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder of digits in two colours, as classes."""
    for name, channel in (("green", 1), ("red", 0)):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.zeros((28, 28, 3), np.uint8)
            pixels[..., channel] = Mnist5k().load().train.images[i, 0]
            Image.fromarray(pixels).save(tmp_path / "colours" / name / f"{i}.png")
    return tmp_path / "colours"


def test_normalisation_by_channel_is_torchvisions(colours: Path) -> None:
    numbers = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    data = DigitsDataModule("image_folder", root=str(colours), channels=3, **numbers)
    data.setup()
    assert (data.in_channels, data.image_size, data.class_names) == (3, 28, ("green", "red"))
    images = data.splits.train.images / 255
    torch.testing.assert_close(data.normalise(images), v2.functional.normalize(images, **numbers))
    one = DigitsDataModule("image_folder", root=str(colours), channels=3, mean=0.5, std=0.25)
    one.setup()
    assert (one.mean, one.std) == ([0.5] * 3, [0.25] * 3)
    with pytest.raises(UserError, match=r"data.mean=\[0.5, 0.4\]: give one number, or one for each of 3"):
        DigitsDataModule("image_folder", root=str(colours), channels=3, mean=[0.5, 0.4]).setup()
    with pytest.raises(UserError, match=r"data.std=null: all training pixels of a channel are equal"):
        DigitsDataModule("image_folder", root=str(colours), channels=3, mean=None, std=None).setup()  # no blue


@pytest.mark.parametrize(
    "arguments",
    [
        {"dataset": "mnist5k"},
        {"dataset": "mnist5k", "val_size": 0.15, "test_size": 0.2, "split_seed": 4, "mean": None, "std": None},
        {"dataset": "mnist5k", "folds": 3, "fold": 2, "val_size": 0},
        {"dataset": "image_folder", "image_size": 20, "channels": 3, "mean": [0.1, 0.2, 0.3], "val_size": 0.2},
        {"dataset": "image_folder", "image_size": None},
    ],
)
def test_settings_make_the_same_data_again(arguments: dict, colours: Path) -> None:
    data = DigitsDataModule(**arguments, root=str(colours))
    data.setup()
    settings = data.settings
    assert json.loads(json.dumps(settings)) == settings  # plain types only
    assert settings.pop("class_names") == list(data.class_names)
    assert len(settings.pop("fingerprint")) == 32
    seen = settings.pop("seen")
    assert settings.pop("module") is None
    assert [settings.pop(name) for name in ("fit", "centre", "light_on_dark")] == (
        [20 / 28, "mass", True] if data.dataset == "mnist5k" else [None, None, False]
    )
    assert (seen is not None) == (data.dataset == "image_folder")
    again = DigitsDataModule(**settings)
    again.setup()
    assert again.settings == data.settings
    for part, same in zip(vars(data.splits).values(), vars(again.splits).values(), strict=True):
        assert torch.equal(part.images, same.images)
        assert torch.equal(part.index, same.index)


def test_report_says_what_the_data_is(colours: Path) -> None:
    data = DigitsDataModule("image_folder", root=str(colours), channels=3, val_size=0, mean=0.5, std=0.5)
    data.setup()
    text = data_statistics(data)
    assert "colours, 2 classes, 28×28 pixels, 3 channels" in text
    assert "0.0000" in text  # blue
    assert "validation" not in text
    assert class_counts(data.splits, 2).keys() == {"training", "test"}
    (colours / "red").rename(colours / "[red] :smile:")
    data = DigitsDataModule("image_folder", root=str(colours))
    data.setup()
    assert "[red] :smile:" in data_statistics(data)


def test_typed_images_are_for_training_alone(sample: DigitsDataModule) -> None:
    data = DigitsDataModule("mnist5k", typed=50, seed=3)
    data.setup()
    plain, typed = sample.splits, data.splits
    assert data.split_sizes == sample.split_sizes | {"train": len(plain.train) + 50}
    assert torch.equal(typed.val.images, plain.val.images)
    assert torch.equal(typed.test.images, plain.test.images)
    assert torch.equal(typed.train.images[:-50], plain.train.images)
    added, target = typed.train.images[-50:], typed.train.target[-50:]
    assert torch.bincount(target).tolist() == [5] * 10
    assert (typed.train.index[-50:] == -1).all()
    assert added.dtype == torch.uint8
    sides = [max(np.ptp(np.argwhere(image[0].numpy() > 60), axis=0)) + 1 for image in added]
    assert max(sides) <= 22
    again = DigitsDataModule("mnist5k", typed=50, seed=3)
    again.setup()
    assert torch.equal(again.splits.train.images, typed.train.images)
    assert data.fingerprint == sample.fingerprint  # it is still the same data set


def test_typed_images_need_characters(tmp_path: Path) -> None:
    write_folder(tmp_path, {"seven": [0, 1, 2, 3, 4, 5], "8": [500, 501, 502, 503, 504, 505]})
    data = DigitsDataModule("image_folder", tmp_path, typed=10, val_size=2, test_size=2)
    with pytest.raises(UserError, match=r"data\.typed=10: fonts have no class 'seven' of image_folder"):
        data.setup()
