"""Characters drawn in matplotlib's fonts and by pens, light on dark: for strangers, and for typed training images."""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from digits.data.dataset import Form
from digits.pictures.normal_form import fitted

SIZE = 48  # pixels of a font's em
# Those with letters and digits; the others that matplotlib ships have parts of formulas.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
THIN = ("DejaVuSans", "DejaVuSansMono", "STIXGeneral", "STIXGeneralItalic", "cmss10", "cmtt10", "cmti10")
# Forms that these fonts do not have, as lines between points of a box of 100 by 100, the origin at its top left.
FORMS: dict[str, Sequence[Sequence[Sequence[tuple[int, int]]]]] = {
    "1": (
        [[(50, 0), (50, 100)]],
        [[(28, 24), (52, 0), (52, 100)]],
        [[(36, 14), (52, 0), (52, 100)]],
        [[(22, 18), (52, 0), (52, 100)]],
        [[(16, 13), (50, 1), (50, 100)]],  # with a flat flag, it is easily taken for a 7
        [[(26, 9), (50, 0), (50, 100)]],
        [[(30, 20), (50, 0), (50, 100)], [(25, 100), (75, 100)]],
    ),
    "4": (
        [[(30, 0), (15, 62), (80, 62)], [(62, 30), (62, 100)]],
        [[(15, 0), (15, 55), (75, 55)], [(75, 0), (75, 100)]],
        [[(62, 100), (62, 0), (10, 68), (85, 68)]],
    ),
    "7": (
        [[(10, 0), (85, 0), (38, 100)]],
        [[(10, 0), (85, 0), (38, 100)], [(28, 52), (80, 52)]],
        [[(12, 18), (12, 0), (85, 0), (40, 100)]],
    ),
    "6": ([[(72, 0), (30, 45), (18, 68), (26, 90), (50, 100), (74, 90), (82, 68), (72, 48), (50, 42), (28, 50)]],),
    "9": (
        [[(28, 100), (70, 55), (82, 32), (74, 10), (50, 0), (26, 10), (18, 32), (28, 52), (50, 58), (72, 50)]],
        [[(78, 30), (68, 6), (48, 0), (28, 8), (20, 30), (30, 52), (52, 58), (72, 48), (78, 4), (78, 100)]],
    ),
    "3": ([[(15, 0), (80, 0), (45, 38), (70, 44), (84, 66), (74, 90), (48, 100), (20, 92)]],),
}


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), size)


@functools.cache
def characters_of(name: str) -> frozenset[str]:
    """The characters that a font has; of the older ones without Unicode, the letters and digits."""
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    known = frozenset(map(chr, FT2Font(path).get_charmap()))
    return known if not name.startswith("cm") else frozenset(c for c in known if c.isascii() and c.isalnum())


@functools.cache
def glyph(text: str, font: str, size: int = SIZE) -> np.ndarray:
    """Text in a font, as a program shows it: uint8 of shape (h, w), without empty rows and columns at its edges."""
    drawn = _font(font, size)
    left, top, right, bottom = (round(side) for side in drawn.getbbox(text))
    picture = Image.new("L", (max(1, right - left) + 8, max(1, bottom - top) + 8))
    ImageDraw.Draw(picture).text((4 - left, 4 - top), text, 255, font=drawn)
    return cropped(np.asarray(picture))


@functools.cache
def middle_line(text: str, font: str) -> np.ndarray:
    """The line that a pen would follow to write a text as a font has it: points (N, 2), x and y, in pixels."""
    from skimage.morphology import skeletonize

    return np.argwhere(skeletonize(glyph(text, font) > 127))[:, ::-1].astype(np.float32)


def cropped(ink: np.ndarray) -> np.ndarray:
    """Without empty rows and columns at the edges of (h, w); a single black pixel where there is no ink."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return np.zeros((1, 1), np.uint8)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def lines(strokes: Iterable[np.ndarray], width: float) -> np.ndarray:
    """Strokes of a pen so many pixels wide: uint8 (h, w), with a margin of half its width.

    Each has the points (N, 2) of a line, x and y; together they are scaled to a longer side of `SIZE`.
    """
    parts = [np.asarray(stroke, np.float32).reshape(-1, 2) for stroke in strokes]
    points = np.concatenate(parts)
    low, extent = points.min(axis=0), max(1e-6, float(np.ptp(points, axis=0).max()))
    margin = int(width) + 2
    scale = SIZE / extent
    width_height = ((points.max(axis=0) - low) * scale).astype(int) + 2 * margin + 1
    ink = np.zeros(width_height[::-1], np.uint8)
    for part in parts:
        fixed = np.round(((part - low) * scale + margin) * 16).astype(np.int32)  # sixteenths of a pixel
        cv2.polylines(ink, [fixed], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return cropped(ink)


def written(points: np.ndarray, width: float) -> np.ndarray:
    """A middle line, or points as close to each other, under a round pen: uint8 (h, w)."""
    margin, points = int(width) + 2, points - points.min(axis=0)
    across, down = np.round(points).astype(int).T + margin
    ink = np.zeros((down.max() + margin + 1, across.max() + margin + 1), np.uint8)
    ink[down, across] = 255
    return cropped(under_a_pen(ink, width))


def under_a_pen(points: np.ndarray, width: float) -> np.ndarray:
    """Points, as a picture of them, drawn with a round pen: both uint8 (h, w)."""
    side = max(3, round(width) | 1)
    wide = cv2.dilate(points, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return cv2.GaussianBlur(wide, (3, 3), 0)


def distorted(ink: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Turned, sheared, stretched and bent, as no two writers write alike: uint8 (h, w).

    A strength of 1 is that of handwriting, of 0.3 that of pictures of print.
    """
    margin = 4 + max(ink.shape) // 4
    ink = np.pad(ink, margin)
    height, width = ink.shape
    turn, shear = strength * rng.uniform(-0.2, 0.2), strength * rng.uniform(-0.3, 0.3)
    stretch = np.exp(strength * rng.uniform(-0.25, 0.25))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix @ np.array([[stretch, shear], [0, 1 / stretch]])
    middle = np.array([width / 2, height / 2])
    turned = cv2.warpAffine(ink, np.column_stack([matrix, middle - matrix @ middle]), (width, height))
    bend = rng.normal(0, strength * 0.035 * max(ink.shape), (4, 4, 2)).astype(np.float32)
    where = _grid(width, height) + cv2.resize(bend, (width, height), interpolation=cv2.INTER_CUBIC)
    return cropped(cv2.remap(turned, where[..., 0], where[..., 1], cv2.INTER_LINEAR))


@functools.lru_cache(4096)
def _grid(width: int, height: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def beside(parts: Sequence[np.ndarray], gap: int, rng: np.random.Generator) -> np.ndarray:
    """Several pieces of ink, each uint8 (h, w), from left to right, `gap` pixels apart: uint8 (h, w)."""
    height = max(len(part) for part in parts)
    placed = np.zeros((height, sum(part.shape[1] + max(0, gap) for part in parts)), np.uint8)
    right = 0
    for part in parts:
        left = max(0, right + gap)
        top = int(rng.integers(0, height - len(part) + 1))
        here = placed[top : top + len(part), left : left + part.shape[1]]
        np.maximum(here, part, out=here)
        right = left + part.shape[1]
    return cropped(placed)


def thickened(ink: np.ndarray, pixels: int) -> np.ndarray:
    """With strokes that are wider, or narrower, by about 2 pixels for each: uint8 (h, w)."""
    if pixels == 0:
        return ink
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    if pixels > 0:
        return cv2.dilate(np.pad(ink, pixels), kernel)
    thinner = cv2.erode(ink, kernel)
    return cropped(thinner) if (thinner > 127).sum() > 0.3 * (ink > 127).sum() else ink


def typed(character: str, rng: np.random.Generator) -> np.ndarray:
    """A character as print has it, in one of the fonts or in one of the forms that these lack: uint8 (h, w)."""
    return thickened(distorted(_printed(character, rng), rng, 0.3), int(rng.integers(-1, 2)))


def _printed(character: str, rng: np.random.Generator) -> np.ndarray:
    forms = FORMS.get(character, ())
    if forms and rng.random() < 0.5:
        slant = rng.uniform(0, 0.3) if rng.random() < 0.4 else 0.0
        shape = np.array([[rng.uniform(0.6, 1.1), 0], [-slant, 1]], np.float32)  # narrower or broader, as italics
        return lines([np.array(one) @ shape for one in forms[int(rng.integers(len(forms)))]], rng.uniform(3, 11))
    fonts = [font for font in FONTS if character in characters_of(font)]
    ink = glyph(character, fonts[rng.integers(len(fonts))])
    if character == "0" and rng.random() < 0.3:  # slashed or dotted
        ink = ink.copy()
        (height, width), thickness = ink.shape, int(rng.integers(3, 6))
        if rng.random() < 0.5:
            cv2.line(ink, (width // 4, 3 * height // 4), (3 * width // 4, height // 4), 255, thickness, cv2.LINE_AA)
        else:
            cv2.circle(ink, (width // 2, height // 2), thickness, 255, -1, cv2.LINE_AA)
    return ink


def in_a_font(text: str, rng: np.random.Generator) -> np.ndarray:
    """Text in a font, bent and broadened: uint8 (h, w)."""
    fonts = [font for font in FONTS if characters_of(font).issuperset(text)]
    ink = distorted(glyph(text, fonts[rng.integers(len(fonts))]), rng, rng.uniform(0.2, 1))
    return thickened(ink, int(rng.integers(-1, 3)))


def by_a_pen(text: str, rng: np.random.Generator) -> np.ndarray:
    """Text written after a font: uint8 (h, w)."""
    fonts = [font for font in THIN if characters_of(font).issuperset(text)] or ["DejaVuSans"]
    points = middle_line(text, fonts[rng.integers(len(fonts))])
    return distorted(written(points, rng.uniform(2, 9)), rng, 1.2)


def character_images(
    class_names: Sequence[str],
    count: int,
    draw: Callable[[str, np.random.Generator], np.ndarray],
    form: Form,
    examples: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Classes' names as images, each as often as the others.

    Args:
        class_names: single characters, all of which the fonts have: see `can_be_typed`.
        count: of the images.
        draw: draws a character: `typed`, `in_a_font` or `by_a_pen`.
        form: that they are brought into.
        examples: images in that form, uint8 of shape (N, C, H, W).

    Returns:
        images, uint8 of shape (count, C, H, W), and their classes (count,).
    """
    target = rng.permutation(np.arange(count) % len(class_names))
    inks = (draw(class_names[number], rng) for number in target)
    return np.stack([in_form(ink, form, examples[rng.integers(len(examples))], rng) for ink in inks]), target


def can_be_typed(class_names: Sequence[str]) -> bool:
    """Whether each class's name is a single character that one of the fonts has."""
    return all(len(name) == 1 and any(name in characters_of(font) for font in FONTS) for name in class_names)


def in_form(ink: np.ndarray, form: Form, example: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink as a data set has its images: uint8 of shape (C, H, W).

    Without a normal form it is put somewhere, in some size and colour, on the ground of an example (C, H, W).
    """
    if form.fit:
        image = fitted(ink, form)
        if rng.random() < 0.2:
            image = cv2.GaussianBlur(image, (3, 3), 0)
        return np.repeat(image[None], form.channels, axis=0)
    side = form.image_size
    scale = side * rng.uniform(0.5, 1) / max(ink.shape)
    small = cv2.resize(ink, [max(1, round(part * scale)) for part in ink.shape[::-1]], interpolation=cv2.INTER_AREA)
    alpha = np.zeros((side, side), np.float32)
    top, left = (int(rng.integers(0, side - part + 1)) for part in small.shape)
    alpha[top : top + small.shape[0], left : left + small.shape[1]] = small / 255
    border = np.concatenate([example[:, 0], example[:, -1], example[:, :, 0], example[:, :, -1]], axis=1)
    ground = np.median(border, axis=1)[:, None, None]
    low, high = (150, 255) if ground.mean() < 128 else (0, 100)
    return (ground + alpha * (rng.uniform(low, high, ground.shape) - ground)).round().astype(np.uint8)
