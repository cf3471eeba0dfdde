"""The data sets that torchvision reads: what is loaded is what is published, and nothing damaged gets in."""

import gzip
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import (
    IDX_DAMAGES,
    Small,
    emnist_files,
    idx,
    small_digits,
    truncate,
    write_emnist,
    write_kmnist,
    write_qmnist,
    write_usps,
)
from torchvision.datasets import EMNIST, MNIST

from digits.data import DigitsDataModule
from digits.data.dataset import DataSet
from digits.data.datasets import Emnist, Usps, named
from digits.data.images import TensorImages
from digits.errors import UserError


@pytest.fixture
def small() -> Small:
    return small_digits()


def same(loaded: TensorImages, images: np.ndarray, target: np.ndarray) -> bool:
    return np.array_equal(loaded.images[:, 0], images) and np.array_equal(loaded.target, target)


WRITERS = {"kmnist": write_kmnist, "emnist": write_emnist, "qmnist": write_qmnist, "usps": write_usps}


def data_set(name: str, root: Path) -> DataSet:
    return named(name)(root, "digits" if name == "emnist" else None)


@pytest.mark.parametrize("name", ["kmnist", "emnist", "qmnist"])
def test_reads_the_files_as_they_are_published(name: str, tmp_path: Path, small: dict) -> None:
    WRITERS[name](tmp_path / "root", small)
    *parts, names, _ = data_set(name, tmp_path / "root").load()  # all there: no network is needed
    assert len(names) == 10
    for part, (images, target) in zip(parts, small.values(), strict=True):
        assert same(part, images, target)
        assert part.images.dtype == torch.uint8
        assert part.images.is_contiguous()


def test_emnist_letters_begin_at_a(tmp_path: Path, small: dict) -> None:
    write_emnist(tmp_path / "root", small, "letters", first=1)
    train, test, names, _ = Emnist(tmp_path / "root", "letters").load()
    assert names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert same(train, *small["train"])
    assert same(test, *small["test"])


def test_emnist_balanced_has_47_classes(tmp_path: Path, small: dict) -> None:
    write_emnist(tmp_path / "root", small, "balanced", first=37)
    train, _, names, _ = Emnist(tmp_path / "root", "balanced").load()
    # The 11 lower-case letters that differ from upper case: Cohen et al., table II.
    assert "".join(names) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
    assert train.target.max() == 46


def test_emnist_is_downloaded_and_unpacked(
    tmp_path: Path, small: dict, monkeypatch: pytest.MonkeyPatch, serve: Callable
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for name, array in emnist_files(small, "letters", 1).items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(idx(array)))
    serve(folder)
    monkeypatch.setattr(EMNIST, "url", f"{MNIST.mirrors[0]}gzip.zip")
    monkeypatch.setattr(EMNIST, "md5", hashlib.md5((folder / "gzip.zip").read_bytes()).hexdigest())
    data = DigitsDataModule("emnist", root=str(tmp_path / "root"), subset="letters", mean=None, std=None)
    data.prepare_data()
    monkeypatch.setattr(EMNIST, "url", "http://127.0.0.1:9/gone")
    data.setup()
    assert len(data.splits.test) == len(small["test"][0])
    assert data.title == "emnist letters"


def test_usps_keeps_its_size(tmp_path: Path, small: dict) -> None:
    write_usps(tmp_path / "root", small)
    *parts, names, _ = Usps(tmp_path / "root").load()
    assert names == tuple("0123456789")
    for part, (images, target) in zip(parts, small.values(), strict=True):
        assert part.images.shape[1:] == (1, 16, 16)
        assert np.array_equal(part.target, target)
        assert np.abs(part.images[:, 0].numpy().astype(int) - images[:, 6:22, 6:22]).max() <= 1
    data = DigitsDataModule("usps", root=str(tmp_path / "root"), val_size=0.2, mean=None, std=None)
    data.setup()
    assert (data.image_size, data.in_channels) == (16, 1)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("damage", [truncate, lambda _: b"", lambda _: b"no such format" * 99])
def test_damage_is_one_line(name: str, damage, tmp_path: Path, small: dict) -> None:
    path = WRITERS[name](tmp_path / "root", small)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{tmp_path / 'root'}.*{name}.*delete") as error:
        data_set(name, tmp_path / "root").load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("damage", "message"), IDX_DAMAGES.values(), ids=IDX_DAMAGES)
@pytest.mark.parametrize("name", ["kmnist", "emnist", "qmnist"])
def test_damage_names_the_file_and_what_is_wrong(name: str, damage, message: str, tmp_path: Path, small: dict) -> None:
    folder = WRITERS[name](tmp_path / "root", small).parent
    for kind in ("images", "labels"):
        path = max(folder.glob(f"*{kind}*"))
        good = path.read_bytes()
        path.write_bytes(damage(good))
        with pytest.raises(UserError, match=f"{path}: {name} can neither be read.*{message}"):
            data_set(name, tmp_path / "root").load()
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["kmnist", "emnist", "qmnist"])
def test_labels_that_do_not_fit_are_refused(name: str, tmp_path: Path, small: dict) -> None:
    images, target = small["train"]
    cases = ((target[1:], "250 training images with 249 labels"), (target + 1, "labels from 1 to 10 for 10 classes"))
    for number, (wrong, message) in enumerate(cases):
        WRITERS[name](tmp_path / str(number), small | {"train": (images, wrong)})
        with pytest.raises(UserError, match=message):
            data_set(name, tmp_path / str(number)).load()


@pytest.mark.parametrize("name", WRITERS)
def test_without_files_and_network_it_is_one_line(name: str, tmp_path: Path) -> None:
    data = DigitsDataModule(name, root=str(tmp_path / "none"), subset="letters" if name == "emnist" else None)
    for step in (data.prepare_data, data.setup):
        with pytest.raises(UserError, match=f"{tmp_path / 'none'}.*{name}.*data.root") as error:
            step()
        assert "\n" not in str(error.value)
