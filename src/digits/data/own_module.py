"""A LightningDataModule of the user's own, with what this project asks of its data besides."""

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from digits.augmentation import Mixing, NoMixing
from digits.data.batches import TrainingBatches
from digits.data.dataset import DataSet
from digits.data.images import TensorImages
from digits.data.module import taught
from digits.data.settings import TrainedData
from digits.data.splits import Splits
from digits.errors import UserError
from digits.targets import make, parameters_of, target_of
from digits.validation import user_errors

if TYPE_CHECKING:
    from digits.teacher import Teacher

SPLITS = ("train", "val", "test")
IDLE = SimpleNamespace(
    training=False, validating=False, testing=True, predicting=False, sanity_checking=False, world_size=1, global_rank=0
)  # a trainer for the module's hooks, while its images are looked at and none of them is trained on

log = logging.getLogger(__name__)


class OwnDataModule(L.LightningDataModule):
    """Adapts a data module of the user's own: `data._target_=mypackage.data.MyModule`.

    Its batches are images (B, C, H, W), as the network gets them, and their classes (B,). The names of the classes are
    its attribute `class_names`, else 0, 1, ...; how its pixels are normalised, its attributes `mean` and `std`. Without
    these, pixels outside [0, 1] are taken to reach from black to white.

    The order of the training images depends on the seed and the epoch alone, and can be resumed during an epoch, where
    its loader is torch's DataLoader with a plain or a random sampler. What the module itself draws, while it is made
    and set up, are the same random numbers in each run, so that `random_split` splits alike.

    Args:
        arguments: `_target_`, the module's class, and the arguments of that, as plain types.
        seed: of the order of the training images.
        augmentation: as of DigitsDataModule, on what the module gives for training.

    Raises:
        UserError: if that is no LightningDataModule, or does not take these arguments.
    """

    def __init__(self, arguments: Mapping[str, Any], seed: int = 0, augmentation: nn.Module | None = None) -> None:
        super().__init__()
        self.arguments, self.dataset, self.seed = dict(arguments), str(arguments["_target_"]), seed
        kind = target_of("data", arguments)
        takes, problem = parameters_of(kind), ""
        further = any(one.kind == one.VAR_KEYWORD for one in takes.values())
        unknown = [name for name in arguments if name not in takes and name != "_target_" and not further]
        if not (isinstance(kind, type) and issubclass(kind, L.LightningDataModule)):
            problem = "no subclass of lightning.LightningDataModule"
        elif unknown:
            problem = f"takes no {unknown[0]}. It has {', '.join(takes) or 'no arguments'}"
        if problem:
            raise UserError(f"data._target_={self.dataset}: {problem}")
        with fixed_random_numbers():
            self.module: L.LightningDataModule = make(arguments)
        self._trainer: Any = None
        self._splits: Splits | None = None
        self.class_names: tuple[str, ...] = ()
        self.mean, self.std = [0.0], [1.0]
        self.augmentation = augmentation or nn.Identity()
        self.augments = True  # a callback may end that
        self.mixing: Mixing = NoMixing()
        self.teacher: Teacher | None = None
        self.in_channels = 0
        self.image_size: int | None = None
        self.fingerprint = ""
        self.corrected: Mapping[int, int] = {}

    @property
    def trainer(self) -> Any:  # Lightning sets it, and the module is to see it too
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self._trainer = trainer
        if "module" in vars(self):
            self.module.trainer = trainer

    @property
    def splits(self) -> Splits:
        """What to train on, choose on and report on; loaded here, where `setup` has not been called."""
        if self._splits is None:
            self.prepare_data()
            self.setup()
        assert self._splits is not None
        return self._splits

    @property
    def name(self) -> str:  # type: ignore[override] # as in DigitsDataModule
        return self.dataset.rpartition(".")[2]

    @property
    def title(self) -> str:
        return self.name

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> dict[str, int]:
        return {
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "image_size": int(self.image_size or 0),
        }

    @property
    def split_sizes(self) -> dict[str, int]:
        """Images of each split; 0 also for a stream of training images, whose number nobody knows."""
        return {name: len(images) for name, images in vars(self.splits).items()}

    @property
    def batch_size(self) -> int | None:
        return getattr(self.module, "batch_size", self.module.hparams.get("batch_size"))

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        if "batch_size" in self.module.hparams:
            self.module.hparams["batch_size"] = value
        if hasattr(self.module, "batch_size"):
            self.module.batch_size = value

    @property
    def eval_batch_size(self) -> Any:
        test = self._loader("test")
        return getattr(self._loader("val") if test is None else test, "batch_size", None)

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, as plain types: see `TrainedData`. Known after `setup`."""
        form = {name: getattr(self.module, name, getattr(DataSet, name)) for name in ("fit", "centre", "light_on_dark")}
        with user_errors("data"):
            kept = TrainedData(
                dataset=self.dataset,
                module={name: value for name, value in self.arguments.items() if name != "root"},
                root=str(self.arguments.get("root", "")),
                subset=None,
                split_seed=0,
                test_size=None,
                folds=None,
                fold=0,
                val_size=len(self.splits.val),
                image_size=self.shape["image_size"],
                channels=self.in_channels,  # type: ignore[arg-type] # 1 or 3, as `setup` has checked
                mean=self.mean,
                std=self.std,
                class_names=list(self.class_names),
                **form,
                fingerprint=self.fingerprint,
                seen=None,
            )
        return kept.model_dump()

    def prepare_data(self) -> None:
        if self._splits is None:
            with fixed_random_numbers():
                self.module.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Sets the module up for training and test, and looks at its first batch.

        Raises:
            UserError: if there are no training images, they are not as this project needs them, or several processes
                are to train on them.
        """
        problem = "it works in one process only. Give trainer.devices=1"
        if not (self.trainer and self.trainer.world_size > 1):
            problem = self._load() if self._splits is None else ""
        if problem:
            raise UserError(f"data._target_={self.dataset}: {problem}")

    def _load(self) -> str:
        """Does what `setup` does, as far as nothing is wrong; returns what is."""
        for one in ("fit", "test"):
            with fixed_random_numbers():
                self.module.setup(one)
        loaders = [self._loader(name) for name in SPLITS]
        train = loaders[0]
        problem, batches = self._problem(loaders), []
        if not problem:
            last = next(one for one in reversed(loaders) if one is not None)
            batches = [self.first_batch(train), self.first_batch(last)]
            problem = _problem_of(batches[0]) or _problem_of(batches[1])
        if problem:
            return problem
        (images, _), (last_images, _) = batches
        self._look_at(images)
        parts = [LoaderImages(self, one, whole=one is not train) for one in loaders]
        names, number = (getattr(self.module, name, None) for name in ("class_names", "num_classes"))
        self.class_names = tuple(map(str, names or range(number or int(parts[0].target.max()) + 1)))
        self._splits = Splits(*parts)
        self.fingerprint = self._hash(parts, last_images)
        if self._in_order(train) is None:
            _say(f"{self.dataset}: its training batches come in its own order. Resuming during an epoch is not exact")
        if loaders[2] is None:
            _say(f"{self.dataset}: it has no test_dataloader, so that nothing is tested")
        return ""

    def _problem(self, loaders: Sequence[Any]) -> str:
        """What this project cannot work with, in the module's loaders of each split."""
        train = loaders[0]
        several = [i for i, loader in enumerate(loaders) if isinstance(loader, list | tuple | dict)]
        named = any(getattr(self.module, name, None) for name in ("class_names", "num_classes"))
        problem = ""
        if train is None:
            problem = "it has no train_dataloader"
        elif several:
            split, number = SPLITS[several[0]], len(loaders[several[0]])
            problem = f"{split}_dataloader gives {number} loaders. Give one"
        elif odd := [split for split, loader in zip(SPLITS, loaders, strict=True) if not _is_countable(loader, split)]:
            problem = (
                f"its {odd[0]}_dataloader shuffles, leaves images out or repeats some, so that figures could not say"
                " which images they are about: give it a data set of its own (a Subset), and no sampler"
            )
        elif isinstance(getattr(train, "dataset", None), IterableDataset) and not named:
            problem = "a stream of images. Give the module class_names"
        return problem

    def _look_at(self, images: Tensor) -> None:
        """Finds out the shape of a batch's images and how they are normalised."""
        self.in_channels, self.image_size = images.shape[1:3]
        low, high = float(images.min()), float(images.max())
        mean, std = (getattr(self.module, name, None) for name in ("mean", "std"))
        if mean is not None and std is not None:
            self.mean, self.std = ([float(one) for one in np.atleast_1d(value)] for value in (mean, std))
        elif low >= 0 and high <= 1:
            _say(f"{self.dataset}: it has no mean and std: its pixels in [0, 1] are taken as they are")
        else:
            self.mean, self.std = [-low / (high - low)], [1 / (high - low)]
            _say(
                f"{self.dataset}: it has no mean and std: its pixels are taken to reach from {low:.4g} (black) to"
                f" {high:.4g} (white), also by digits.predict. Give the module these attributes to be exact"
            )

    def _hash(self, parts: Sequence["LoaderImages"], last: Tensor) -> str:
        """Of what is known without reading all images: names, sizes, classes, and the last split's first images."""
        digest = hashlib.blake2b("\0".join(self.class_names).encode(), digest_size=16)
        for part in parts:
            known = known_targets(part.dataset)
            digest.update(f"{len(part)}".encode() + (b"" if known is None else known.numpy().tobytes()))
        digest.update(self.pixels(last).numpy().tobytes())
        return digest.hexdigest()

    def first_batch(self, loader: Any) -> Any:
        with fixed_random_numbers():
            return next(self.batches(loader), None)

    def batches(self, loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """What the network gets in a test, on the CPU: images (B, C, H, W), not augmented, and classes (B,)."""
        for batch in loader:
            before, self.module.trainer = self.module.trainer, IDLE  # type: ignore[assignment]
            try:
                batch = self.module.on_before_batch_transfer(batch, 0)
                batch = self.module.on_after_batch_transfer(batch, 0)
            finally:
                self.module.trainer = before
            yield batch

    def pixels(self, images: Tensor) -> Tensor:
        """The images that the network gets, as uint8."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def _loader(self, split: str) -> Any:
        """The module's loader of a split, or several where it gives several; None if it has none."""
        if not is_overridden(f"{split}_dataloader", self.module, L.LightningDataModule):
            return None
        loader = getattr(self.module, f"{split}_dataloader")()
        if isinstance(loader, list | tuple | dict) and len(loader) == 1:
            [loader] = loader.values() if isinstance(loader, dict) else loader
        return None if isinstance(loader, list | tuple | dict) and not loader else loader

    def train_dataloader(self) -> Any:
        loader = self._loader("train")
        ordered = self._in_order(loader)
        return loader if ordered is None else ordered

    def _in_order(self, loader: Any) -> TrainingBatches | None:
        """The same batches in an order that can be resumed; None where the loader has an order of its own."""
        sampler = getattr(loader, "sampler", None)
        shuffles = type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(loader.dataset)
        ours = type(loader) is DataLoader and type(loader.batch_sampler) is BatchSampler
        if (
            not ours
            or isinstance(loader.dataset, IterableDataset)
            or not (shuffles or type(sampler) is SequentialSampler)
        ):
            return None
        overfit = bool(self.trainer and self.trainer.overfit_batches)
        return TrainingBatches(
            loader.dataset,
            loader.batch_size,
            self.seed,
            shuffle=shuffles and not overfit,
            drop_last=loader.drop_last,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
        )

    def val_dataloader(self) -> Any:
        loader = self._loader("val")
        return [] if loader is None else loader

    def test_dataloader(self) -> Any:
        loader = self._loader("test")
        return [] if loader is None else loader

    def predict_dataloader(self) -> Any:
        return self.test_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.module.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self.module.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch = self.module.on_after_batch_transfer(batch, dataloader_idx)
        as_is = isinstance(self.augmentation, nn.Identity) and isinstance(self.mixing, NoMixing)
        changes = self.augments and not as_is
        if not ((changes or self.teacher) and self.trainer and self.trainer.training):
            return batch
        images, target = batch
        mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (self.mean, self.std))
        images = images * std + mean  # in [0, 1]
        if changes:
            images, target = self.mixing(self.augmentation(images), target)
        return ((images - mean) / std, *taught(self, images, target))


class LoaderImages(TensorImages):
    """What a loader gives, read once somebody asks for it. `images` are uint8, as a picture has them.

    Args:
        data: the loader's module.
        loader: None: there are no images.
        whole: whether `images` are all; else, as for training, those of the first batch.
    """

    def __init__(self, data: OwnDataModule, loader: Any, whole: bool) -> None:
        self.data, self.loader, self.whole = data, loader, whole
        self.dataset = getattr(loader, "dataset", None)

    def __len__(self) -> int:
        if self.loader is None or (isinstance(self.dataset, IterableDataset) and not self.whole):
            return 0
        return len(self.target) if isinstance(self.dataset, IterableDataset) else len(self.dataset or [])

    @cached_property
    def target(self) -> Tensor:  # type: ignore[override] # read when it is asked for
        known = known_targets(self.dataset)
        return self._read(lambda _, target: target) if known is None else known

    @cached_property
    def images(self) -> Tensor:  # type: ignore[override]
        if self.whole:
            return self._read(lambda images, _: self.data.pixels(images))
        return self.data.pixels(self.data.first_batch(self.loader)[0])

    @cached_property
    def index(self) -> Tensor:  # type: ignore[override]
        return torch.arange(len(self))

    def _read(self, part: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        with fixed_random_numbers():
            parts = [part(*batch) for batch in self.data.batches([] if self.loader is None else self.loader)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.dataset, IterableDataset):
            images, target = self.data.first_batch(self.loader)
        else:
            batch = [self.dataset[int(i)] for i in indices]  # type: ignore[index] # there is one, where there are indices
            images, target = self.data.first_batch([self.loader.collate_fn(batch)])
        return self.data.pixels(images), target


def _is_countable(loader: Any, split: str) -> bool:
    """Whether a loader gives each image of its data set, in order but for training; a stream has no other order."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return True
    if split == "train":
        return not isinstance(loader.sampler, SubsetRandomSampler)
    ordered = type(loader.sampler) is SequentialSampler and type(loader.batch_sampler) is BatchSampler
    return ordered and not loader.drop_last


def _problem_of(batch: Any) -> str:
    """What makes a batch none of images and their classes."""
    problem = ""
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(map(torch.is_tensor, batch))):
        problem = f"two tensors, images and classes; there is a {type(batch).__name__}"
    elif (
        len(shape := tuple(batch[0].shape)) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3] or batch[1].ndim != 1
    ):
        needed = "images (B, C, H, W) with one or three channels, as high as wide, and classes (B,)"
        problem = f"{needed}; there are images {shape} and classes {tuple(batch[1].shape)}"
    return problem and f"its batches have to be {problem}"


def known_targets(dataset: Any) -> Tensor | None:
    """The classes (N,) that a data set of torch's or torchvision's knows without loading images; else None."""
    match dataset:
        case Subset():
            inner = known_targets(dataset.dataset)
            return None if inner is None else inner[torch.as_tensor(dataset.indices)]
        case ConcatDataset():
            parts = [known_targets(part) for part in dataset.datasets]
            known = [part for part in parts if part is not None]
            return torch.cat(known) if len(known) == len(parts) else None
        case TensorDataset():
            return dataset.tensors[-1]
    found = getattr(dataset, "targets", None)
    if found is None or getattr(dataset, "target_transform", None) is not None or len(found) != len(dataset):
        return None
    return torch.as_tensor(found)


@contextmanager
def fixed_random_numbers() -> Iterator[None]:
    """The same ones on the CPU each time; the run's own stay as they are."""
    with isolate_rng(include_cuda=False):
        torch.default_generator.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - which a user's module may draw from
        random.seed(0)
        yield


def _say(line: str) -> None:
    rank_zero_only(log.info)("data:   %s", line)
