"""From any picture to the normal form of a data set: MNIST's digits are light on dark, boxed, scaled and centred."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from digits.data.dataset import Form
from digits.errors import UserError
from digits.pictures.decode import ORIGINAL_SIZE, fit_square
from digits.pictures.marks import Mark, find_marks

SMALL = 64  # pixels of the longer side: a picture of no more is an image of a data set, with nothing to be searched for
FAINTEST = 28  # of 255: the least difference from the ground that can be ink, in such an image
FULL = 75  # percentile of a mark's ink that is as dark as the pen makes it
SOFT_EDGE = 4 / 255  # of the ink: where its box ends

NOTHING = "no {noun} found: the picture is blank, or its ink too faint or too small"


class NothingFoundError(UserError):
    """A picture without a mark."""


@dataclass(frozen=True)
class Found:
    """An image in a data set's form, and where in the picture it was.

    Args:
        image: uint8 of shape (C, H, W).
        box: left, top, right, bottom, in pixels of the upright original picture; the last two are just outside.
        separator: the sign between digits that it is, such as a decimal point; empty: a character, or anything else.
        line: that it stands on, from 0, from top to bottom.
        clearness: how clearly its ink was seen, from 0 to 1; None: nothing had to be found.
        again: the image that came of it when it was looked at another time; None: there was no such mark then.
    """

    image: np.ndarray
    box: tuple[int, int, int, int]
    separator: str = ""
    line: int = 0
    clearness: float | None = None
    again: np.ndarray | None = None


def find_images(
    picture: Image.Image, form: Form, judge: Callable[[np.ndarray], np.ndarray] | None = None
) -> list[Found]:
    """Finds the marks on a picture and brings each into the form: line by line, each from left to right.

    For a data set without a known normal form, the whole picture is the only one.

    Args:
        picture: as `read_picture` gives it.
        form: as `digits.model_facts.ModelFacts.form` has it.
        judge: tells of images in the form, uint8 (N, C, H, W), how likely each is one mark: (N,), from 0 to 1. It
            decides where marks touch.

    Returns:
        Empty for a picture with nothing on it.
    """
    if form.fit is None:
        return [_whole_picture(picture, form)]
    if max(picture.size) <= SMALL:
        return [Found(_image(mark.ink, form), _in_original(mark.box, picture)) for mark in _single_mark(picture)]

    def judge_marks(some: Sequence[Mark]) -> np.ndarray:
        assert judge
        return judge(np.stack([_image(mark.ink, form) for mark in some]))

    return [
        Found(
            image=_image(mark.ink, form),
            box=_in_original(mark.box, picture),
            separator=mark.separator,
            line=mark.line,
            clearness=mark.clearness,
            again=None if mark.again is None else _image(mark.again, form),
        )
        for mark in find_marks(picture, judge_marks if judge else None)
    ]


def find_image(picture: Image.Image, form: Form) -> Found:
    """Finds the one mark on a picture: of several the largest. Arguments as for `find_images`.

    Raises:
        NothingFoundError: if there is none.
    """
    found = find_images(picture, form)
    if not found:
        raise NothingFoundError(NOTHING.format(noun="digit"))
    return max(found, key=lambda one: (not one.separator, area(one.box)))


def area(box: tuple[int, int, int, int]) -> int:
    """Of a box, in pixels."""
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _whole_picture(picture: Image.Image, form: Form) -> Found:
    picture = picture.convert("L" if form.channels == 1 else "RGB")
    image = fit_square(picture, form.image_size)
    if form.light_on_dark and np.median(_border(np.asarray(picture.convert("L")))) > 127:
        image = 255 - image
    return Found(image, _in_original((0, 0, *picture.size), picture))


def _border(values: np.ndarray) -> np.ndarray:
    """The pixels along the edges of an array (H, W)."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _single_mark(picture: Image.Image) -> list[Mark]:
    """All that differs from the border of a small picture, as one mark; none where nothing does."""
    grey = np.asarray(picture.convert("L")).astype(np.int16)
    ground = int(np.median(_border(grey)))
    lighter = grey - ground
    if lighter.clip(0).sum() < (-lighter).clip(0).sum():
        lighter, most = -lighter, max(ground, 1)
    else:
        most = max(255 - ground, 1)
    amount = lighter.clip(0) * (255 / most)
    if amount.max() < FAINTEST:
        return []
    sure = amount[amount > max(FAINTEST, amount.max() / 2)]
    ink = np.minimum(amount / np.percentile(sure, FULL), 1)
    rows, columns = (np.flatnonzero((ink >= SOFT_EDGE).any(axis=axis)) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return [Mark(ink[box[1] : box[3], box[0] : box[2]], box)]


def _image(ink: np.ndarray, form: Form) -> np.ndarray:
    """Ink, (h, w) from 0 to 1, in the form: uint8 (C, H, W)."""
    image = fitted((255 * ink).round().astype(np.uint8), form)
    return np.repeat(image[None], form.channels, axis=0)


def fitted(ink: np.ndarray, form: Form) -> np.ndarray:
    """Scales ink to the form's box and centres it: uint8 of shape (image_size, image_size).

    Args:
        ink: uint8 of shape (h, w), light on dark, without an empty row or column at its edges.
        form: with a normal form.
    """
    assert form.fit is not None
    scale = form.fit / max(ink.shape)
    size = [max(1, round(side * scale)) for side in ink.shape[::-1]]
    small = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    return _centred((small * (255 / max(1, small.max()))).round().astype(np.uint8), form)


def _centred(digit: np.ndarray, form: Form) -> np.ndarray:
    """A digit (h, w) in an image (size, size), centred as the form has it."""
    offsets = []
    for axis in (0, 1):
        length = digit.shape[axis]
        if form.centre == "mass":
            weight = digit.sum(axis=1 - axis, dtype=float)
            middle = (weight * np.arange(length)).sum() / weight.sum()
            offset = round(form.image_size / 2 - middle)
        else:
            offset = (form.image_size - length) // 2
        offsets.append(min(max(0, offset), form.image_size - length))
    image = np.zeros((form.image_size, form.image_size), np.uint8)
    top, left = offsets
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return image


def _in_original(box: Iterable[float], picture: Image.Image) -> tuple[int, int, int, int]:
    """Scales a box in a picture to the one that it was reduced from."""
    width, height = picture.info.get(ORIGINAL_SIZE, picture.size)
    across, down = width / picture.width, height / picture.height
    left, top, right, bottom = box
    return (
        max(0, int(left * across)),
        max(0, int(top * down)),
        min(width, math.ceil(right * across)),
        min(height, math.ceil(bottom * down)),
    )
