"""Sheets with real digits on them, for the tests of what reads pictures."""

import numpy as np
from PIL import Image

from digits.data.dataset import Form
from digits.data.datasets import Mnist5k

MNIST_FORM = Form(28, 1, 20, "mass", True)


def digit(number: int) -> np.ndarray:
    """(28, 28), uint8: light on dark; 500 of each class, one class after the other."""
    return Mnist5k().load().train.images[number, 0].numpy()


def ink(number: int, height: int) -> np.ndarray:
    """A digit cut to its box and scaled to this height: (height, w), from 0 to 1."""
    rows, columns = np.nonzero(digit(number))
    box = Image.fromarray(digit(number)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    width = max(1, round(box.width * height / box.height))
    return np.asarray(box.resize((width, height), Image.Resampling.BICUBIC)) / 255


def page(*places: tuple[int, int, int, int], size: tuple[int, int] = (400, 300), paper: float = 1.0) -> np.ndarray:
    """Digits in black, each as (number, height, left, top), on a sheet of paper: (H, W), from 0 to 1."""
    sheet = np.full(size[::-1], paper)
    for number, height, left, top in places:
        dark = ink(number, height)
        sheet[top : top + height, left : left + dark.shape[1]] *= 1 - dark
    return sheet


def picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray((255.0 * values.clip(0, 1)).round().astype(np.uint8))


def likeness(image: np.ndarray, number: int) -> float:
    """Correlation of an image (1, 28, 28) with the digit that it should be."""
    return float(np.corrcoef(image.ravel(), digit(number).ravel())[0, 1])
