"""From any picture to the normal form of a data set: MNIST's digits are light on dark, boxed, scaled and centred."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from digits.data.dataset import Form
from digits.errors import UserError
from digits.pictures.decode import ORIGINAL_SIZE, fit_square

# Amounts of ink go from 0 (the ground) to 255 (nothing of the ground shines through).
FAINTEST = 28  # a pencil's ink is 50 to 100; less can be a crease or a shadow
SOFT_EDGE = 4  # the least ink that still belongs to a stroke
NOISE = 5  # standard deviations of the ground's noise that ink has to exceed
SHARP = 0.75  # of a stroke's ink, which rises by this much within a few pixels of its edge; a shadow's does not
CLEARER = 1.5  # times the contrast of grey, for a single colour to be used: yellow ink shows in blue
# In uneven light, the ground of a pixel is the median of its surroundings. Wide surroundings blur the edges of
# shadows, narrow ones take a broad stroke for ground.
SURROUNDINGS = (0.25, 0.5)  # of the picture's shorter side
BROAD = 0.2  # of the surroundings: a stroke this wide needs wider ones
THUMBNAIL = 96  # pixels of the longer side of the reduced picture that the ground is computed on
PHOTO_FROM = 64  # pixels of the shorter side; a smaller picture is lit evenly
# Sizes of parts
SMALLEST = 0.01  # of the picture's longer side; anything smaller is dirt
SPECK = 0.03  # of the largest part's area
NEAR = 0.4  # of a digit's size: a stroke further away does not belong to it
SHORT = 0.4  # of the line's height: anything lower is a hyphen or a full stop
THINNEST = 1.5  # pixels of a stroke in the normal form; MNIST's have 2 to 3

NOTHING = "no digit found: the picture is blank, or its ink too faint or too small. Give one with a clear digit on it"


class NothingFoundError(UserError):
    """A picture without a digit."""


@dataclass(frozen=True)
class Found:
    """An image in a data set's form, and where in the picture it was.

    Args:
        image: uint8 of shape (C, H, W).
        box: left, top, right, bottom, in pixels of the upright original picture; the last two are just outside.
    """

    image: np.ndarray
    box: tuple[int, int, int, int]


def find_image(picture: Image.Image, form: Form) -> Found:
    """Finds the digit in a picture, light on dark or dark on light, and brings it into the form.

    A digit may have several strokes that do not touch; anything far from it is left out. For a data set without a
    known normal form, the whole picture is taken.

    Args:
        picture: as `read_picture` gives it.
        form: as `digits.model_facts.ModelFacts.form` has it.

    Raises:
        NothingFoundError: if there is none.
    """
    if form.fit is None:
        return _whole_picture(picture, form)
    ink = _Ink.of(picture)
    return _normalised(ink, _with_neighbours(ink.strokes), picture, form)


def find_images(picture: Image.Image, form: Form) -> list[Found]:
    """Finds the digits in a picture from left to right, as in a postcode; arguments and errors as for `find_image`.

    Strokes above each other are one digit. Without a known normal form, the whole picture is the only one.
    """
    if form.fit is None:
        return [_whole_picture(picture, form)]
    ink = _Ink.of(picture)
    digits = _merge_stacked(ink.strokes)
    height = max(digit.bottom - digit.top for digit in digits)
    digits = [digit for digit in digits if digit.bottom - digit.top >= SHORT * height]
    return [
        _normalised(ink, digit, picture, form) for digit in sorted(digits, key=lambda digit: digit.left + digit.right)
    ]


def _whole_picture(picture: Image.Image, form: Form) -> Found:
    picture = picture.convert("L" if form.channels == 1 else "RGB")
    image = fit_square(picture, form.image_size)
    if form.light_on_dark and np.median(_border(np.asarray(picture.convert("L")))) > 127:
        image = 255 - image
    return Found(image, _in_original((0, 0, *picture.size), picture))


@dataclass(frozen=True)
class _Stroke:
    """Connected ink, or several connected parts that belong together."""

    labels: tuple[int, ...]
    left: int
    top: int
    right: int
    bottom: int
    area: int

    def __or__(self, other: "_Stroke") -> "_Stroke":
        return _Stroke(
            self.labels + other.labels,
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
            self.area + other.area,
        )

    @property
    def size(self) -> int:
        return max(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True)
class _Ink:
    """How much ink is where.

    Args:
        amount: uint8 of shape (H, W): 0 is the ground.
        faintest: the amount that is not noise.
        labels: (H, W): the number of the stroke that a pixel surely belongs to; 0: none.
        strokes: without those that are too small.
    """

    amount: np.ndarray
    faintest: int
    labels: np.ndarray
    strokes: list[_Stroke]

    @classmethod
    def of(cls, picture: Image.Image) -> "_Ink":
        """The ink in a picture.

        Raises:
            NothingFoundError: if there is none.
        """
        grey = _grey(picture)
        border = _border(np.asarray(grey))
        off = np.abs(border - np.median(border))
        large = min(grey.size) >= PHOTO_FROM
        # The ground of a drawing or of a scan is of one value.
        photo = large and max(grey.histogram()) < 0.3 * grey.width * grey.height
        if photo:
            grey = grey.filter(ImageFilter.GaussianBlur(max(grey.size) / 640))
        values = np.asarray(grey).astype(np.int16)
        # Ink touches the border in a few places; a shadow lies along much of it.
        uneven = photo or (large and (off > 12).mean() > 0.05)
        for share in SURROUNDINGS if uneven else ():
            ink = cls._on_ground(values, _local_ground(grey, share), uneven)
            if not ink.strokes:
                break
            if share == SURROUNDINGS[-1] or ink.stroke_width() < BROAD * share * min(grey.size):
                return ink
        if not photo:
            ink = cls._on_ground(values, np.median(border).astype(np.int16), uneven)
            if ink.strokes:
                return ink
        raise NothingFoundError(NOTHING)

    @classmethod
    def _on_ground(cls, values: np.ndarray, ground: np.ndarray, uneven: bool) -> "_Ink":
        """The ink on a ground, which has one value, or one for each pixel: both int16, the picture of shape (H, W)."""
        from scipy import ndimage
        from skimage.filters import threshold_otsu

        amount, noise = _ink_amount(values, ground)
        sure = max(FAINTEST, round(NOISE * noise))
        counts = np.bincount(amount.ravel(), minlength=256).astype(float)
        # Otsu's method needs classes of similar size, but a page has little ink: the ground is given the same weight.
        counts[:sure] *= counts[sure:].sum() / max(1, counts[:sure].sum())
        if not counts.any():
            return cls(amount, sure, np.zeros(values.shape, np.int32), [])
        threshold = max(sure - 1, threshold_otsu(hist=(counts, np.arange(256))))
        labels, _ = ndimage.label(amount > threshold, structure=np.ones((3, 3)))
        areas = np.bincount(labels.ravel())
        strokes = [
            _Stroke((label,), where[1].start, where[0].start, where[1].stop, where[0].stop, int(areas[label]))
            for label, where in enumerate(ndimage.find_objects(labels), start=1)
        ]
        if ground.ndim:
            height, width = values.shape
            # At the border lie shadows and the page's surroundings.
            strokes = [s for s in strokes if s.left > 0 and s.top > 0 and s.right < width and s.bottom < height]
        enough = SPECK * max((stroke.area for stroke in strokes), default=0)
        strokes = [stroke for stroke in strokes if stroke.area >= enough]
        if uneven and strokes:
            # A picture lit evenly can be a small one scaled up.
            strokes = _with_sharp_edges(strokes, labels, amount, max(amount.shape) // (150 if ground.ndim else 25))
        if max((stroke.size for stroke in strokes), default=0) < max(3, SMALLEST * max(values.shape)):
            strokes = []
        return cls(amount, max(SOFT_EDGE, round(3 * noise)), labels, strokes)

    def stroke_width(self) -> float:
        """About how wide the pen was, in pixels: a line of length l has the area wl, and 2l pixels at its edge."""
        mask = np.isin(self.labels, [label for stroke in self.strokes for label in stroke.labels])
        return 2 * float(mask.sum() / _edge(mask).sum())


def _edge(mask: np.ndarray) -> np.ndarray:
    """The outermost pixels of what is true in (H, W)."""
    from scipy import ndimage

    return mask & ~ndimage.binary_erosion(mask)


def _with_sharp_edges(strokes: list[_Stroke], labels: np.ndarray, amount: np.ndarray, reach: int) -> list[_Stroke]:
    """The strokes with a pen's edge: their ink comes and goes within `reach` pixels."""
    from scipy import ndimage

    side = 2 * max(3, reach) + 1
    rise = ndimage.maximum_filter(amount, side) - ndimage.minimum_filter(amount, side)
    rise = rise - np.percentile(rise, 10)  # what the noise alone makes
    which = [stroke.labels[0] for stroke in strokes]
    rises = ndimage.mean(rise, np.where(_edge(labels > 0), labels, 0), which)
    levels = ndimage.mean(amount, labels, which)
    return [strokes[i] for i in np.flatnonzero(rises > SHARP * levels)]


def _ink_amount(values: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, float]:
    """How much ink each pixel has, uint8 of shape (H, W), and the standard deviation of the ground's noise."""
    lighter = values - ground
    off = np.abs(lighter[:: max(1, len(lighter) // 256)])
    # Half of a normal distribution lies within 0.674 standard deviations, a quarter within 0.319; the rest may be ink.
    noise = 1.4826 * np.median(off) if ground.ndim else 3.1383 * np.percentile(off, 25)
    least = max(FAINTEST / 2, NOISE * noise)
    if lighter[lighter > least].sum() > -lighter[lighter < -least].sum():
        most = 255 - ground
    else:
        most, lighter = ground, -lighter
    most = np.maximum(most, 1).astype(np.float32)
    amount = np.clip(lighter * (255 / most), 0, 255).astype(np.uint8)
    return amount, noise * 255 / float(np.median(most))


def _grey(picture: Image.Image) -> Image.Image:
    """The picture in mode L: its grey, unless one of its colours shows the ink far better, as blue does for yellow."""
    if picture.mode == "L":
        return picture
    grey = picture.convert("L")
    thumbnail = picture.reduce(max(1, min(picture.size) // 128))
    spread = np.asarray(thumbnail).std(axis=(0, 1))
    clearer = spread.max() > CLEARER * np.asarray(thumbnail.convert("L")).std()
    return picture.getchannel(int(spread.argmax())) if clearer else grey


def _border(values: np.ndarray) -> np.ndarray:
    """The pixels along the edges of an array (H, W)."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _local_ground(grey: Image.Image, share: float) -> np.ndarray:
    """How light the picture would be without ink, in uneven light: int16 of shape (H, W).

    Args:
        share: size of the surroundings whose median is a pixel's ground, as a share of the picture's shorter side.
    """
    from skimage.filters.rank import median

    factor = THUMBNAIL / max(grey.size)
    small = np.array(grey.resize([max(8, round(side * factor)) for side in grey.size], Image.Resampling.BOX))
    side = round(share * min(small.shape)) | 1
    ground = Image.fromarray(median(small, np.ones((side, side), np.uint8)))
    return np.asarray(ground.resize(grey.size, Image.Resampling.BICUBIC)).astype(np.int16)


def _with_neighbours(strokes: list[_Stroke]) -> _Stroke:
    """The largest stroke with all that is near it, near that, and so on."""
    digit, *rest = sorted(strokes, key=lambda stroke: -stroke.area)
    while near := [stroke for stroke in rest if _gap(digit, stroke) <= NEAR * digit.size]:
        for stroke in near:
            digit |= stroke
        rest = [stroke for stroke in rest if stroke not in near]
    return digit


def _gap(a: _Stroke, b: _Stroke) -> int:
    """Between two boxes, in pixels; 0 or less where they overlap."""
    return max(a.left - b.right, b.left - a.right, a.top - b.bottom, b.top - a.bottom)


def _merge_stacked(strokes: Iterable[_Stroke]) -> list[_Stroke]:
    """Makes one of strokes above each other: those that share more than half of the narrower one's width."""
    digits: list[_Stroke] = []
    for stroke in sorted(strokes, key=lambda stroke: stroke.left - stroke.right):  # the widest first
        digit = stroke
        for other in list(digits):
            shared = min(other.right, stroke.right) - max(other.left, stroke.left)
            if shared > 0.5 * (stroke.right - stroke.left):
                digits.remove(other)
                digit |= other
        digits.append(digit)
    return digits


def _normalised(ink: _Ink, digit: _Stroke, picture: Image.Image, form: Form) -> Found:
    """Cuts a digit out and brings it into the form."""
    from scipy import ndimage
    from skimage.segmentation import watershed

    assert form.fit is not None  # else the picture is taken whole
    margin = 2 + digit.size // 8  # for the soft edges of the strokes
    top, left = max(0, digit.top - margin), max(0, digit.left - margin)
    window = (slice(top, digit.bottom + margin), slice(left, digit.right + margin))
    amount, labels = ink.amount[window], ink.labels[window]
    sure = np.isin(labels, digit.labels)
    # A quarter of a stroke or more is as dark as the pen makes it, so that MNIST's own images stay as they are.
    amount = np.minimum((amount * np.float32(255 / np.percentile(amount[sure], 75))).round(), 255).astype(np.uint8)
    scale = form.fit / digit.size
    lacking = round((THINNEST / scale - 2 * sure.sum() / _edge(sure).sum()) / 2)
    if scale < 0.5 and lacking > 0:  # a thin line would fade away
        amount = ndimage.maximum_filter(amount, 2 * lacking + 1)

    factor = max(1, digit.size // 160)  # more pixels are not needed, and slow
    amount, own, others = (
        np.asarray(Image.fromarray(part).reduce(factor))
        for part in (amount, 255 * sure.astype(np.uint8), 255 * ((labels > 0) & ~sure).astype(np.uint8))
    )
    # A soft edge belongs to the stroke from which it falls off.
    markers = np.where(own, 1, np.where(others, 2, 0))
    own = watershed(~amount, markers, mask=(amount >= ink.faintest) | (markers > 0)) == 1
    rows, columns = (np.flatnonzero(own.any(axis=axis)) for axis in (1, 0))
    crop = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    pixels = np.where(own, amount, 0).astype(np.uint8)[crop]
    scale = form.fit / max(pixels.shape)
    size = [max(1, round(side * scale)) for side in pixels.shape[::-1]]
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    image = _centred((small * (255 / small.max())).round().astype(np.uint8), form)
    right, bottom = left + factor * (columns[-1] + 1), top + factor * (rows[-1] + 1)
    box = (left + factor * columns[0], top + factor * rows[0], right, bottom)
    return Found(np.repeat(image[None], form.channels, axis=0), _in_original(box, picture))


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


def _in_original(box: Iterable[int], picture: Image.Image) -> tuple[int, int, int, int]:
    """Scales a box in a picture to the one that it was reduced from."""
    width, height = picture.info.get(ORIGINAL_SIZE, picture.size)
    across, down = width / picture.width, height / picture.height
    left, top, right, bottom = box
    return (
        int(left * across),
        int(top * down),
        min(width, math.ceil(right * across)),
        min(height, math.ceil(bottom * down)),
    )
