"""Images that are none of a data set's classes, in the form of its images: what a gate learns to say no to.

Which characters are strangers depends on the classes' names: for digits the letters are, for letters the digits. Where
the names are no single characters, nobody can tell what a character is, and none is drawn.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from digits.data.dataset import Form
from digits.glyphs import (
    FONTS,
    THIN,
    beside,
    by_a_pen,
    cropped,
    distorted,
    glyph,
    in_a_font,
    in_form,
    lines,
    middle_line,
    written,
)

# Nobody can tell these apart without the others around them: if one is a class, none of them is a stranger.
SAME = ("0OoΟοОоσ°○●◯θΘΦφ∅", "1Il|iıΙιІ/!'`,´\\()[]∫ſ", "9q", "6б", "3З")
ALIKE = (
    "2Zz∂",
    "5Ss",
    "8B",
    "9gρ",
    "6bGδ",
    "4Чyч",
    "7T?>",
    "1j{}",
    "0DQaЮ",
)  # and these hardly: they are rarer strangers
RARER = 3
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~£§±÷×¶"
OTHERS = "αβγδεζηθκλμνξπρτυφχψωΓΔΘΛΞΠΣΦΨΩБГДЖИЙЛПУЦЧШЩЭЮЯбдёжийлшщэюя"
SYMBOLS = "←↑→↓↔∀∂∃∅∇∈∏∑√∞∫≈≠≤≥■□▲△▶◆○●★☆☎☺☹♀♂♠♣♥♦♪♫✓✗✚✦➔"
PICTURES = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "page", "text", "rocket")

Draw = Callable[["Strangers", np.random.Generator], np.ndarray]


def strange_characters(class_names: Sequence[str], alphabet: str) -> str:
    """The characters of an alphabet that are surely none of the classes.

    Where a class is a letter, its other case is none either: some data sets have both in one class. A character that
    looks much like a class is there once, and the others `RARER` times.
    """
    known = {case for name in class_names for case in (name.lower(), name.upper())}
    alike = known | {character for group in ALIKE if known.intersection(group) for character in group}
    known |= {character for group in SAME if known.intersection(group) for character in group}
    strange = [character for character in alphabet if character not in known]
    return "".join(character * (1 if character in alike else RARER) for character in strange)


class Strangers:
    """Draws strangers.

    Args:
        images: some training images, uint8 of shape (N, C, H, W).
        class_names: of the data set.
        form: of its images.
    """

    def __init__(self, images: np.ndarray, class_names: Sequence[str], form: Form) -> None:
        self.images, self.form = images, form
        single = all(len(name) == 1 for name in class_names)
        alphabets = {"letters": LETTERS + DIGITS, "signs": SIGNS, "others": OTHERS, "symbols": SYMBOLS}
        self.characters = {
            name: strange_characters(class_names, alphabet) if single else "" for name, alphabet in alphabets.items()
        }
        self.words = self.characters["letters"] or LETTERS
        # A bar that stands upright is a character too, and a ring is another.
        self.bars = bool(single and set("1Il|i").intersection(class_names))
        self.rings = bool(single and set("0Oo").intersection(class_names))
        # Without a normal form, the pictures as a whole are what counts.
        left_out = (*(("shuffled",) if form.fit else OF_STROKES), *(() if single else OF_CHARACTERS))
        self.kinds = {name: kind for name, kind in KINDS.items() if name not in left_out}

    def draw(self, count: int, rng: np.random.Generator, kinds: Iterable[str] | None = None) -> np.ndarray:
        """Draws strangers of these kinds, by default of all: uint8 of shape (count, C, H, W)."""
        names = list(self.kinds if kinds is None else kinds)
        shares = np.array([self.kinds[name][1] for name in names])
        return np.stack([self.one(str(kind), rng) for kind in rng.choice(names, count, p=shares / shares.sum())])

    def one(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        """A stranger of a kind: uint8 of shape (C, H, W)."""
        draw = self.kinds[kind][0]
        drawn = draw(self, rng)
        if kind in WHOLE:
            return drawn
        while min(drawn.shape) < 2 or drawn.max() < 128:
            drawn = draw(self, rng)
        return in_form(drawn, self.form, self.image(rng), rng)

    def image(self, rng: np.random.Generator) -> np.ndarray:
        """A training image."""
        return self.images[rng.integers(len(self.images))]

    def known(self, rng: np.random.Generator) -> np.ndarray:
        """The ink of a training image, twice as large: uint8 of shape (h, w)."""
        image = self.image(rng)
        grey = image.mean(axis=0).astype(np.uint8) if len(image) > 1 else image[0]
        ink = cropped(np.where(grey > 20, grey, 0).astype(np.uint8))
        return cv2.resize(ink, [2 * side for side in ink.shape[::-1]], interpolation=cv2.INTER_CUBIC)


# Characters


def _character(alphabet: str, *ways: Callable[[str, np.random.Generator], np.ndarray]) -> Draw:
    """Draws a character of an alphabet in one of two ways, as likely, or in the only one."""

    def draw(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
        characters = strangers.characters[alphabet]
        character = characters[rng.integers(len(characters))]
        return (ways[0] if len(ways) == 1 or rng.random() < 0.5 else ways[1])(character, rng)

    return draw


def _symbol(character: str, rng: np.random.Generator) -> np.ndarray:
    return distorted(glyph(character, "DejaVuSans"), rng, 0.7)


def _word(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """Several letters that stand close or touch."""
    letters = [strangers.words[rng.integers(len(strangers.words))] for _ in range(rng.integers(2, 6))]
    font, gap = FONTS[rng.integers(len(FONTS))], int(rng.integers(-3, 6))
    if rng.random() < 0.5:
        parts = [glyph(letter, font) for letter in letters]
        return distorted(beside(parts, gap, rng), rng, 0.4)
    parts = [middle_line(letter, THIN[rng.integers(len(THIN))]) for letter in letters]
    ends = np.cumsum([0, *(np.ptp(part[:, 0]) + 3 * gap for part in parts)])
    moved = [part - part.min(axis=0) + (end, rng.normal(0, 2)) for part, end in zip(parts, ends, strict=False)]
    return distorted(written(np.concatenate(moved), rng.uniform(3, 9)), rng, 0.7)


# Of the known ones, but not one of them


def _squeezed(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """Two or three beside each other, which touch."""
    parts = [strangers.known(rng) for _ in range(2 if rng.random() < 0.75 else 3)]
    squeeze, ink = rng.uniform(0.5, 1), beside(parts, -int(rng.integers(0, 7)), rng)
    return cv2.resize(ink, (max(2, round(ink.shape[1] * squeeze)), len(ink)), interpolation=cv2.INTER_AREA)


def _crossed_out(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """Under lines that leave its box, or under hatching."""
    whole = np.pad(strangers.known(rng), 16)
    height, width = whole.shape
    pen = int(rng.integers(3, 7))
    if rng.random() < 0.5:
        points = [(rng.uniform(4, width - 4), rng.uniform(4, height - 4)) for _ in range(rng.integers(6, 12))]
        cv2.polylines(whole, [np.array(points, np.int32)], False, 255, pen, cv2.LINE_AA)
        return cropped(whole)
    for _ in range(rng.integers(2, 4)):
        left, right = (int(rng.integers(4, height - 4)) for _ in range(2))
        cv2.line(whole, (2, left), (width - 3, right), 255, pen, cv2.LINE_AA)
    return cropped(whole)


def _framed(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """In a box or a ring."""
    inside = strangers.known(rng)
    gap, pen = int(rng.integers(4, 14)), int(rng.integers(2, 6))
    framed = np.pad(inside, gap + pen)
    height, width = framed.shape
    if rng.random() < 0.5:
        cv2.rectangle(framed, (pen // 2, pen // 2), (width - 1 - pen // 2, height - 1 - pen // 2), 255, pen)
        return framed
    framed = np.pad(framed, max(height, width) // 4)
    height, width = framed.shape
    middle, axes = (width // 2, height // 2), (width // 2 - pen, height // 2 - pen)
    cv2.ellipse(framed, middle, axes, 0, 0, 360, 255, pen, cv2.LINE_AA)
    return cropped(framed)


# Lines


def _curve(points: np.ndarray, steps: int = 12) -> np.ndarray:
    """A smooth line through points (N, 2)."""
    smooth = cv2.resize(points[:, None].astype(np.float32), (1, steps * len(points)), interpolation=cv2.INTER_CUBIC)
    return smooth[:, 0]


def _scribble(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """A line that turns often enough to be none of the usual characters."""
    turns, style = int(rng.integers(5, 14)), rng.integers(4)
    points = rng.uniform(0, 48, (turns, 2))
    if style == 1:  # along a line, as a signature
        points[:, 0] = np.linspace(0, 60, turns) + rng.normal(0, 4, turns)
        points[:, 1] *= rng.uniform(0.2, 0.7)
    elif style == 2:  # hatching
        points[:, 0] = np.linspace(0, 40, turns)
        points[:, 1] = np.where(np.arange(turns) % 2, 40, 0) + rng.normal(0, 4, turns)
    elif style == 3:  # a spiral
        angles = np.linspace(0, 2 * np.pi * rng.uniform(1.8, 4), 4 * turns)
        points = np.stack([angles * np.cos(angles), angles * np.sin(angles) * rng.uniform(0.6, 1)], axis=1)
    line = points if style != 3 and rng.random() < 0.3 else _curve(points)
    return distorted(lines([line], rng.uniform(2, 8)), rng, 0.7)


def _ring(x: float, y: float, radius: float, part: float = 1.0, start: float = 0.0) -> np.ndarray:
    angles = start + np.linspace(0, 2 * np.pi * part, 32)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def _polygon(corners: int, rng: np.random.Generator, inner: float = 1.0) -> np.ndarray:
    angles = rng.uniform(0, 0.5) + 2 * np.pi * np.arange(corners + 1) / corners
    radius = np.where(np.arange(corners + 1) % 2, 50 * inner, 50)
    return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], axis=1)


def _drawing(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """A face, a star, an arrow, a house, ..."""
    u = rng.uniform
    t = np.linspace(0, 2 * np.pi, 40)
    eyes = [_ring(-u(12, 22), -u(8, 20), u(1, 7)), _ring(u(12, 22), -u(8, 20), u(1, 7))]
    mouth = _ring(0, u(-4, 10), u(16, 30), 0.4, 0.3) if rng.random() < 0.7 else np.array([[-18, 22], [18, u(16, 26)]])
    square = np.array([[-40, -40], [40, -40], [40, 40], [-40, 40], [-40, -40]]) * (u(0.5, 1), 1)
    drawings = [
        [_ring(0, 0, 50), *eyes, mouth],
        [_ring(0, 0, 50), *eyes, mouth],
        [_polygon(3, rng)],
        [_polygon(10, rng, u(0.35, 0.6))],
        [np.array([[0, -50], [0, 50]]), np.array([[-u(25, 50), u(-20, 20)], [u(25, 50), u(-20, 20)]])],
        [np.array([[-40, -40], [40, 40]]), np.array([[-u(30, 40), 40], [40, -u(30, 40)]])],
        [np.array([[-50, 0], [50, 0]]), np.array([[u(15, 35), -u(15, 30)], [50, 0], [u(15, 35), u(15, 30)]])],
        [np.stack([16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], 1)],
        [square, np.array([[-45, -40], [0, -u(70, 95)], [45, -40]])],
        [square],
        [square, np.array([[-40, -40], [40, 40]])],
        [np.array([[-40, u(-10, 10)], [-u(0, 20), 40], [45, -45]])],
        [
            _ring(0, -35, 14),
            *(np.array(one) for one in ([[0, -20], [0, 20]], [[-25, 0], [25, 0]], [[-18, 50], [0, 20], [18, 50]])),
        ],
        [_ring(0, 0, r) for r in (15, 32, 50)],
        [np.stack([10 * t, u(8, 25) * np.sin(u(2, 4) * t)], 1)],
        [np.array([[x, 0], [x + u(-6, 6), 60]]) for x in range(0, 61, 20)],
        [np.array([[0, 0], [60, u(-4, 4)]]), np.array([[0, 25], [60, 25 + u(-4, 4)]])],
        [_ring(0, 0, 40), np.array([[-60, 0], [60, 0]])],
        [np.array([[-40, -40], [40, -40], [-40, 40], [40, 40], [-40, -40]])],
    ]
    turned = u(-0.3, 0.3)
    if rng.random() < 0.2:
        turned = u(-3.1, 3.1)
    rotation = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    chosen = drawings[rng.integers(len(drawings))]
    return distorted(lines([np.asarray(line) @ rotation.T for line in chosen], u(2, 8)), rng, 0.7)


def _edge(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """Of a page, a rule, a corner, a frame; an upright bar only where it is no character."""
    steepest = 50 if strangers.bars else 90
    along = np.deg2rad(rng.uniform(-steepest, steepest))
    line = 50 * np.array([[-np.cos(along), -np.sin(along)], [np.cos(along), np.sin(along)]])
    style = rng.integers(5)
    strokes = [line]
    if style == 1 and not strangers.bars:  # which could be a 7
        across = along + np.pi / 2 + rng.normal(0, 0.1)
        strokes = [
            np.array([line[0], line[1], line[1] + rng.uniform(20, 90) * np.array([np.cos(across), np.sin(across)])])
        ]
    elif style == 2:
        strokes = [line, line + rng.uniform(8, 40) * np.array([-np.sin(along), np.cos(along)])]
    elif style == 3:
        width, height = rng.uniform(20, 60, 2)
        strokes = [np.array([[0, 0], [width, 0], [width, height], [0, height]])[: rng.integers(3, 5)]]
    elif style == 4:
        count, gap, most = rng.integers(2, 4), rng.uniform(12, 25), rng.uniform(40, 60)
        strokes = [np.array([[0, i * gap], [most, i * gap]]) for i in range(count)]
        strokes += [np.array([[i * gap, -5], [i * gap, most]]) for i in range(count)]
    ink = lines(strokes, rng.uniform(1.5, 8))
    if rng.random() < 0.3:  # as the shadow of an edge, it fades out
        fade = np.linspace(1, rng.uniform(0, 0.6), ink.shape[rng.integers(2)], dtype=np.float32)
        ink = (ink * (fade[:, None] if len(fade) == len(ink) else fade[None])).astype(np.uint8)
    return distorted(ink, rng, 0.3)


def _blob(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """A dot, several dots, a spot."""
    ink = np.zeros((64, 64), np.uint8)
    if rng.random() < 0.4:
        for _ in range(rng.integers(2, 9)):
            cv2.circle(ink, tuple(map(int, rng.integers(8, 56, 2))), int(rng.integers(2, 9)), 255, -1, cv2.LINE_AA)
        return cropped(ink)
    axes = rng.uniform(12, 24, 2)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = 1 + rng.uniform(0, 0.3) * _curve(np.stack([rng.normal(0, 1, 6)] * 2, 1), 4)[:, 0]
    points = 32 + radius[:, None] * axes * np.stack([np.cos(angles), np.sin(angles)], 1)
    cv2.fillPoly(ink, [points.astype(np.int32)], 255, cv2.LINE_AA)
    return cropped(ink)


# Surfaces


def _noise(side: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise from 0 to 255, float32 (side, side)."""
    cells = int(rng.integers(3, side + 1))
    noise = cv2.resize(
        rng.uniform(0, 1, (cells, cells)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
    )
    low, high = noise.min(), noise.max()
    return (noise - low) * (255 / max(1e-6, high - low))


def _photo(side: int, rng: np.random.Generator) -> np.ndarray:
    """A part of one of scikit-image's pictures, float32 (side, side, 3), as contrasted as can be."""
    photos = _photos()
    if not photos:
        return np.repeat(_noise(side, rng)[:, :, None], 3, axis=2)
    photo = photos[rng.integers(len(photos))]
    part = int(rng.integers(24, min(photo.shape[:2])))
    top, left = (int(rng.integers(0, length - part + 1)) for length in photo.shape[:2])
    small = cv2.resize(photo[top : top + part, left : left + part], (side, side), interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32)
    return (small - small.min()) * (255 / max(1, small.max() - small.min()))


@functools.cache
def _photos() -> list[np.ndarray]:
    """scikit-image's pictures, reduced, as far as its package has them: uint8 (H, W, 3)."""
    import skimage

    folder, photos = Path(skimage.__file__).parent / "data", []
    for path in sorted(path for name in PICTURES for path in folder.glob(f"{name}.*g")):
        with Image.open(path) as picture:
            picture.thumbnail((256, 256))
            photos.append(np.asarray(picture.convert("RGB")))
    return photos


def _surface(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """What is left of a texture or a photo where one looks for ink in it."""
    side = 40
    grey = _photo(side, rng).mean(axis=2) if rng.random() < 0.5 else _noise(side, rng)
    threshold = np.quantile(grey, rng.uniform(0.4, 0.9))
    ink = np.clip((grey - threshold) * rng.uniform(1, 20), 0, 255)
    y, x = np.ogrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = (x / rng.uniform(0.5, 1.4)) ** 2 + (y / rng.uniform(0.5, 1.4)) ** 2 < 1
    return cropped((ink * inside).astype(np.uint8))


def _texture(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """A texture that fills the image."""
    form = strangers.form
    parts = [_noise(form.image_size, rng) for _ in range(form.channels)]
    image = np.stack(parts if rng.random() < 0.5 else [parts[0]] * form.channels)
    if rng.random() < 0.3:
        image = 255.0 * (image > rng.uniform(80, 200))
    return image.astype(np.uint8)


def _picture(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """A part of a photo that fills the image."""
    photo = _photo(strangers.form.image_size, rng).transpose(2, 0, 1)
    return (photo if strangers.form.channels == 3 else photo.mean(axis=0, keepdims=True)).astype(np.uint8)


def _plain(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """White noise, or nothing but a shade."""
    shape = (strangers.form.channels, strangers.form.image_size, strangers.form.image_size)
    level, much = rng.uniform(0, 255), rng.choice([0, 5, 30, 100])
    return np.clip(rng.normal(level, much, shape), 0, 255).astype(np.uint8)


def _shuffled(strangers: Strangers, rng: np.random.Generator) -> np.ndarray:
    """A training image whose quarters have changed places, or halves of two of them."""
    image, half = strangers.image(rng).copy(), strangers.form.image_size // 2
    if rng.random() < 0.5:
        other = strangers.image(rng)
        if rng.random() < 0.5:
            image[:, half:] = other[:, :half]
        else:
            image[:, :, half:] = other[:, :, :half]
        return image
    corners = [(0, 0), (0, half), (half, 0), (half, half)]
    order = rng.permutation(4)
    if (order == np.arange(4)).all():
        order = order[::-1]
    shuffled = image.copy()
    for (top, left), source in zip(corners, order, strict=True):
        y, x = corners[source]
        shuffled[:, top : top + half, left : left + half] = image[:, y : y + half, x : x + half]
    return shuffled


# How each kind is drawn, and its share.
KINDS: dict[str, tuple[Draw, int]] = {
    "printed letters": (_character("letters", in_a_font), 3),
    "handwritten letters": (_character("letters", by_a_pen), 5),
    "signs": (_character("signs", in_a_font, by_a_pen), 2),
    "other alphabets": (_character("others", in_a_font, by_a_pen), 2),
    "symbols": (_character("symbols", _symbol), 1),
    "words": (_word, 2),
    "pairs": (_squeezed, 2),
    "crossed out": (_crossed_out, 1),
    "framed": (_framed, 1),
    "scribbles": (_scribble, 3),
    "drawings": (_drawing, 3),
    "edges": (_edge, 2),
    "blobs": (_blob, 1),
    "surfaces": (_surface, 2),
    "textures": (_texture, 1),
    "photos": (_picture, 1),
    "plain": (_plain, 1),
    "shuffled": (_shuffled, 1),
}
WHOLE = ("textures", "photos", "plain", "shuffled")  # that fill the image
OF_CHARACTERS = ("printed letters", "handwritten letters", "signs", "other alphabets", "symbols")
OF_STROKES = ("pairs", "crossed out", "framed", "edges", "surfaces")  # that need the ink of a normal form
