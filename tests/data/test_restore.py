"""The data of a checkpoint: the same images in the same splits, and none of training's among the test images."""

from pathlib import Path

import pytest
import torch
from fakes import digit

from digits.data import DigitsDataModule
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
    with pytest.raises(UserError, match=r"3 channel.* are not as the checkpoint's .28×28 pixels, 1 channel"):
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


def test_ensembles_need_one_test_set(sample: DigitsDataModule) -> None:
    def with_settings(**changes) -> dict:
        return sample.settings | changes

    check_one_test_set({"a": with_settings(), "b": with_settings(root="/elsewhere", val_size=100)})
    mnist = {"dataset": "mnist", "test_size": None}
    check_one_test_set({"a": with_settings(**mnist), "b": with_settings(**mnist, split_seed=7)})
    for one, other in (
        ({}, {"dataset": "mnist"}),
        ({}, {"split_seed": 7}),  # another test set of the sample
        (mnist | {"folds": 5}, mnist | {"folds": 5, "split_seed": 7}),
        (mnist | {"folds": 5}, mnist | {"folds": 5, "fold": 1}),
        ({}, {"mean": [0.0]}),
        ({"dataset": "image_folder"}, {"dataset": "image_folder", "root": "/elsewhere"}),
    ):
        [name] = [name for name in other if other[name] != (sample.settings | one)[name]]
        with pytest.raises(UserError, match=f"a and b have no test set in common: data.{name}"):
            check_one_test_set({"a": with_settings(**one), "b": with_settings(**other)})
