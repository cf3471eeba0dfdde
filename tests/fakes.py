"""Small files in the formats of the data sets, with real digits in them, for several tests."""

import bz2
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import dump_svmlight_file

from digits.data.dataset import Form
from digits.data.datasets import Mnist5k, named

Small = dict[str, tuple[np.ndarray, np.ndarray]]


def digit(number: int) -> Image.Image:
    """One of the embedded sample: number 500 n is the first digit n."""
    return Image.fromarray(Mnist5k().load().train.images[number, 0].numpy())


def form_of(dataset: str, image_size: int, channels: int) -> Form:
    """The form of a data set's images."""
    kind = named(dataset)
    fit = round(kind.fit * image_size) if kind.fit else None
    return Form(image_size, channels, fit, kind.centre, kind.light_on_dark)


def small_digits() -> Small:
    """Images (N, 28, 28) and labels (N,) for training and for the test."""
    images = Mnist5k().load().train
    pick = {"train": slice(0, 5000, 20), "test": slice(1, 5000, 50)}
    return {part: (images.images[rows, 0].numpy(), images.target[rows].numpy()) for part, rows in pick.items()}


def write_folder(root: Path, classes: dict[str, list[int]]) -> Path:
    """A folder of images for each class: those digits of the sample, as png."""
    for name, numbers in classes.items():
        (root / name).mkdir(parents=True)
        for i, number in enumerate(numbers):
            digit(number).save(root / name / f"{i:02}.png")
    return root


def idx(array: np.ndarray) -> bytes:
    """An IDX file, as the format's description has it, of bytes or of 32-bit integers."""
    kind, values = (12, array.astype(">i4")) if array.dtype == np.int32 else (8, array.astype(np.uint8))
    return bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">i4").tobytes() + values.tobytes()


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


# What the format itself tells of a file: (array's bytes with a header) to damaged ones, and the words for it.
IDX_DAMAGES = {
    "magic": (lambda content: b"\x00\x01" + content[2:], "not an IDX file: its magic number is 00 01 "),
    "type": (lambda content: content[:2] + b"\x0d" + content[3:], "not an IDX file: its magic number is 00 00 0d"),
    "count": (lambda content: content[:7] + bytes([content[7] ^ 1]) + content[8:], "bytes of them, there are"),
    "trailing": (lambda content: content + b"\x00", "bytes of them, there are"),
    "truncated": (lambda content: content[:-1], "bytes of them, there are"),
    "header": (lambda content: content[:6], r"an IDX header of \d dimensions needs \d+ bytes, there are 6"),
}


def write(folder: Path, files: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for name, array in files.items():
        (folder / name).write_bytes(idx(array))


def write_kmnist(root: Path, small: Small) -> Path:
    files = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        files |= {f"{name}-images-idx3-ubyte": small[part][0], f"{name}-labels-idx1-ubyte": small[part][1]}
    write(root / "KMNIST" / "raw", files)
    return root / "KMNIST" / "raw" / "train-images-idx3-ubyte"


def emnist_files(small: Small, subset: str, first: int) -> dict[str, np.ndarray]:
    files = {}
    for part, (images, target) in small.items():
        files[f"emnist-{subset}-{part}-images-idx3-ubyte"] = images.transpose(0, 2, 1)
        files[f"emnist-{subset}-{part}-labels-idx1-ubyte"] = target + first
    return files


def write_emnist(root: Path, small: Small, subset: str = "digits", first: int = 0) -> Path:
    write(root / "EMNIST" / "raw", emnist_files(small, subset, first))
    return root / "EMNIST" / "raw" / f"emnist-{subset}-train-images-idx3-ubyte"


def write_qmnist(root: Path, small: Small) -> Path:
    files = {}
    for part, (images, target) in small.items():
        table = np.zeros((len(target), 8), np.int32)
        table[:, 0], table[:, 2] = target, np.arange(len(target)) * 1000  # the writer's number, and so on
        files |= {f"qmnist-{part}-images-idx3-ubyte": images, f"qmnist-{part}-labels-idx2-int": table}
    write(root / "QMNIST" / "raw", files)
    return root / "QMNIST" / "raw" / "qmnist-train-images-idx3-ubyte"


def write_usps(root: Path, small: Small) -> Path:
    root.mkdir()
    for part, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        images, target = small[part]
        pixels = (images[:, 6:22, 6:22].reshape(-1, 256) / 255) * 2 - 1
        with bz2.open(root / name, "wb") as file:
            dump_svmlight_file(np.where(pixels == 0, 1e-9, pixels), target + 1, file, zero_based=False)
    return root / "usps.bz2"
