"""The data of a checkpoint: the same images in the same splits, and none of training's among the test images."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import digit, write_folder
from PIL import Image

from digits import load_classifier
from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.data.images import image_hashes
from digits.data.restore import check_one_test_set, restore_data
from digits.errors import UserError


@pytest.fixture(autouse=True)
def no_data_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIGITS_DATA", raising=False)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i in range(20):
        path = tmp_path / "pictures" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        digit(i).save(path)
    return tmp_path / "pictures"


def test_data_comes_back_as_it_was(tmp_path: Path) -> None:
    arguments = {"folds": 4, "fold": 3, "split_seed": 2, "val_size": 100, "mean": None, "std": None}
    trained = DigitsDataModule("mnist5k", root=str(tmp_path), **arguments)
    trained.setup()
    data = restore_data(trained.settings, dataset=None, root=None, eval_batch_size=33)
    assert data.settings == trained.settings
    assert data.eval_batch_size == 33
    assert torch.equal(data.splits.test.images, trained.splits.test.images)


def test_pictures_come_back_from_where_they_were(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = DigitsDataModule("image_folder", root=str(pictures))
    trained.setup()
    monkeypatch.setenv("DIGITS_DATA", "/elsewhere")
    assert torch.equal(restore_data(trained.settings).splits.test.images, trained.splits.test.images)
    pictures.rename(pictures.with_name("moved"))
    with pytest.raises(UserError, match=f"data.root={pictures}: no such folder"):
        restore_data(trained.settings)
    restore_data(trained.settings, root=str(pictures.with_name("moved")))


def test_pictures_that_changed_are_refused(pictures: Path) -> None:
    trained = DigitsDataModule("image_folder", root=str(pictures))
    trained.setup()
    with pytest.raises(UserError, match=r"data.channels=3: the network was trained with 1. Leave it out"):
        restore_data(trained.settings, channels=3)
    (pictures / "dog").rename(pictures / "wolf")
    with pytest.raises(UserError, match=r"its classes .cat, wolf. are not those that the checkpoint knows .cat, dog."):
        restore_data(trained.settings)


def test_root_of_another_machine_is_replaced(
    sample: DigitsDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = sample.settings
    settings["root"] = str(tmp_path)
    assert restore_data(settings).root == tmp_path
    settings["root"] = "/of/another/machine"
    assert restore_data(settings).root == Path("data")
    monkeypatch.setenv("DIGITS_DATA", str(tmp_path))
    assert restore_data(settings).root == tmp_path
    assert restore_data(settings, root="here").root == Path("here")


@pytest.mark.parametrize("dataset", ["mnist", "qmnist"])
def test_sample_does_not_test_what_has_seen_it(dataset: str, sample: DigitsDataModule) -> None:
    settings = sample.settings
    settings |= {"dataset": dataset, "test_size": None, "val_size": 5000}
    with pytest.raises(UserError, match=f"all of mnist5k are training images of {dataset}"):
        restore_data(settings, dataset="mnist5k")


def test_restoring_does_not_fall_back_unasked(sample: DigitsDataModule, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be downloaded"):
        restore_data(sample.settings, dataset="mnist", root=str(tmp_path))
    data = restore_data(sample.settings, dataset="mnist", root=str(tmp_path), offline_fallback=True)
    assert data.dataset == "mnist5k"


def test_another_data_set_has_its_own_splits(sample: DigitsDataModule, mnist_root: Path) -> None:
    data = restore_data(sample.settings, dataset="mnist", root=str(mnist_root))
    assert data.split_sizes == {"train": 55_000, "val": 5_000, "test": 10_000}


def test_ensembles_need_one_test_set_and_form(sample: DigitsDataModule) -> None:
    def with_settings(**changes) -> dict:
        return sample.settings | changes

    check_one_test_set({"a": with_settings(), "b": with_settings(root="/elsewhere", val_size=100)})
    mnist = {"dataset": "mnist", "test_size": None}
    check_one_test_set({"a": with_settings(**mnist), "b": with_settings(**mnist, split_seed=7)})
    folder = {"dataset": "image_folder"}
    check_one_test_set({"a": with_settings(**folder), "b": with_settings(**folder, root="/elsewhere", seen=["1"])})
    for one, other in (
        ({}, {"dataset": "mnist"}),
        ({}, {"split_seed": 7}),  # another test set of the sample
        (mnist | {"folds": 5}, mnist | {"folds": 5, "split_seed": 7}),
        (mnist | {"folds": 5}, mnist | {"folds": 5, "fold": 1}),
        ({}, {"mean": [0.0]}),
        (folder, folder | {"fingerprint": "another"}),
    ):
        [name] = [name for name in other if other[name] != (sample.settings | one)[name]]
        problem = "take their images in different forms" if name == "mean" else "have no test set in common"
        with pytest.raises(UserError, match=f"a and b {problem}: data.{name}"):
            check_one_test_set({"a": with_settings(**one), "b": with_settings(**other)})


# A folder that is not what it was


def hashes(data: DigitsDataModule, split: str) -> set[str]:
    return set(image_hashes(getattr(data.splits, split).images))


@pytest.fixture
def trained_on_pictures(pictures: Path) -> DigitsDataModule:
    data = DigitsDataModule("image_folder", root=str(pictures), val_size=4, test_size=4)
    data.setup()
    return data


def test_folder_that_grew_tests_no_image_of_training(
    trained_on_pictures: DigitsDataModule, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(pictures / "more", {"cat": [600, 601, 602], "dog": [700, 701]})
    for path in (pictures / "more").glob("*/*"):
        path.rename(pictures / path.parent.name / f"new{path.name}")
    shutil.rmtree(pictures / "more")
    with caplog.at_level(logging.WARNING):
        data = restore_data(trained_on_pictures.settings)
    assert data.split_sizes == {"train": 16, "val": 0, "test": 4 + 5}
    new = {hash_ for number in (600, 601, 602, 700, 701) for hash_ in image_hashes(as_tensor(digit(number)))}
    assert hashes(data, "test") == hashes(trained_on_pictures, "test") | new
    assert not hashes(data, "test") & (hashes(trained_on_pictures, "train") | hashes(trained_on_pictures, "val"))
    assert "16 of 25 images were in training or validation: left out. All 9 others are tested" in caplog.text


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))[None, None]


def test_folder_that_moved_has_the_same_split(trained_on_pictures: DigitsDataModule, pictures: Path) -> None:
    moved = pictures.rename(pictures.with_name("moved"))
    data = restore_data(trained_on_pictures.settings, root=str(moved))
    assert data.split_sizes == {"train": 12, "val": 4, "test": 4}
    for split in ("train", "val", "test"):
        assert hashes(data, split) == hashes(trained_on_pictures, split)


def test_folder_of_other_images_is_tested_as_a_whole(
    trained_on_pictures: DigitsDataModule, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_folder(tmp_path / "other", {"cat": [600], "dog": [700, 701]})
    with caplog.at_level(logging.WARNING):
        data = restore_data(trained_on_pictures.settings, root=str(other))
    assert data.split_sizes == {"train": 0, "val": 0, "test": 3}
    assert "training" not in caplog.text


def test_folder_of_training_images_alone_is_refused(trained_on_pictures: DigitsDataModule, pictures: Path) -> None:
    tested = hashes(trained_on_pictures, "test")
    for path in pictures.glob("*/*"):
        if set(image_hashes(as_tensor(Image.open(path)))) <= tested:
            path.unlink()
    with pytest.raises(UserError, match=f"{pictures}: all of its 16 images were in training"):
        restore_data(trained_on_pictures.settings)


# A folder of images for a network that was trained on another data set


def test_pictures_are_tested_as_predict_reads_them(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for label in range(10):
        (tmp_path / "mine" / str(label)).mkdir(parents=True)
        for i in range(3):  # dark on white, larger, off the centre
            paper = Image.new("L", (120, 90), 255)
            paper.paste(Image.fromarray(255 - np.asarray(digit(500 * label + 450 + i))).resize((60, 60)), (40, 10))
            paper.save(tmp_path / "mine" / str(label) / f"{i}.png")
    Image.new("L", (50, 50), 255).save(tmp_path / "mine" / "0" / "blank.png")
    with caplog.at_level(logging.WARNING):
        data = Checkpoint.open(trained / "checkpoints" / "best.ckpt").data(
            dataset="image_folder", root=str(tmp_path / "mine")
        )
    assert data.split_sizes == {"train": 0, "val": 0, "test": 31}
    assert f"1 of 31 images are only scaled, because no digit was found in them: {tmp_path}" in caplog.text
    classifier = load_classifier(trained / "checkpoints" / "best.ckpt")
    images = dict(zip(sorted((tmp_path / "mine").glob("*/*")), data.splits.test.images, strict=True))
    blank = images.pop(tmp_path / "mine" / "0" / "blank.png")
    assert blank.unique().tolist() == [0]  # its ground is dark, as MNIST's
    right = same = 0
    for path, image in images.items():
        prediction = classifier.predict(path)
        tested = classifier.probabilities(image.numpy()[None])[0].argmax()
        same += prediction.label == classifier.facts.class_names[tested]
        right += prediction.label == path.parent.name
    assert same >= 29  # of 30: a reader that looks twice chooses between its looks
    assert right >= 24
    assert data.splits.test.target.tolist() == [0] + [label for label in range(10) for _ in range(3)]


def test_classes_of_pictures_have_to_be_the_checkpoints(sample: DigitsDataModule, pictures: Path) -> None:
    with pytest.raises(UserError, match=r"its classes .cat, dog. are not those that the checkpoint knows .0, 1,"):
        restore_data(sample.settings, dataset="image_folder", root=str(pictures))


def test_another_data_set_without_test_images_is_tested_as_a_whole(sample: DigitsDataModule) -> None:
    settings = sample.settings | {"dataset": "emnist", "subset": "digits", "test_size": None}
    assert restore_data(settings, dataset="mnist5k").split_sizes == {"train": 0, "val": 0, "test": 5000}


# Overrides that would bring images of training into the test


@pytest.mark.parametrize("override", [{"split_seed": 1}, {"test_size": 400}, {"folds": 5}, {"fold": 1}])
def test_the_split_of_training_stays(override: dict, sample: DigitsDataModule) -> None:
    [(name, value)] = override.items()
    with pytest.raises(UserError, match=f"data.{name}={value}: images of training would be tested"):
        restore_data(sample.settings, **override)
    with pytest.raises(UserError, match=r"data.folds=5: images of training would be tested"):
        restore_data(sample.settings, dataset="mnist", folds=5)


def test_the_stand_in_is_split_as_in_training(tmp_path: Path) -> None:
    trained = DigitsDataModule("mnist5k", root=str(tmp_path), test_size=300, split_seed=3)
    trained.setup()
    data = restore_data(trained.settings, dataset="mnist", root=str(tmp_path), offline_fallback=True)
    assert torch.equal(data.splits.test.images, trained.splits.test.images)


def test_other_content_is_said(sample: DigitsDataModule, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        restore_data(sample.settings)
        assert not caplog.records
        restore_data(sample.settings | {"fingerprint": "another"})
    assert "data.dataset=mnist5k: its content is not what the network was trained on" in caplog.text


def test_no_such_setting(sample: DigitsDataModule) -> None:
    with pytest.raises(UserError, match=r"data.size: there is no such setting"):
        restore_data(sample.settings, size=3)
