"""Handwriting for the benchmark's pictures: MNIST's test digits and drawn letters as strokes, and pens.

A glyph's coordinates are (x, y), in heights of a digit: y is 0 at a digit's top and 1 at its foot. A pen draws it at
any size, so that no pixel of MNIST's 28×28 shows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy import ndimage
from skimage.measure import euler_number
from skimage.morphology import skeletonize

FINE = 5  # times as many pixels as MNIST's, where strokes are searched
HOLES = {0: 1, 6: 1, 8: 2, 9: 1}  # of a digit: if its centre line has lost one, it would be another digit
SMALLEST_CANVAS = 150  # pixels of height that a glyph is drawn at, at least; then it is reduced


def clouds(rng: np.random.Generator, shape: tuple[int, int], size: float) -> np.ndarray:
    """Smooth noise (H, W), float32, of mean 0 and a standard deviation about 1; `size`: pixels of a spot."""
    height, width = shape
    coarse = rng.standard_normal((int(height / size) + 3, int(width / size) + 3), dtype=np.float32)
    # Enlarged by the same factor in both directions, then cut: spots are round.
    grown = cv2.resize(coarse, None, fx=max(size, 1), fy=max(size, 1), interpolation=cv2.INTER_CUBIC)
    return 1.3 * grown[:height, :width]


@dataclass(frozen=True)
class Glyph:
    """A character's shape.

    Args:
        segments: float of shape (N, 2, 2), from point to point; of a scan: none.
        scan: float32 of shape (140, 140), the ink's amount from 0 to 1, where strokes cannot be told.
        box: of that scan's ink: left, top, right, bottom.
    """

    segments: np.ndarray
    scan: np.ndarray | None = None
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Pen:
    """Something to write with.

    Args:
        name: of its kind.
        colour: RGB from 0 to 1.
        radius: of a stroke, in heights of a digit.
        opacity: of full ink.
        pressure: standard deviation of the radius along the strokes, as a share of it.
        grain: how much the paper's grain takes away of the ink, from 0 to 1.
        gaps: share of the strokes that is missing.
        nib: the radius across 45°, as a share of the one along it.
        hollow: only the outline of the strokes.
    """

    name: str
    colour: tuple[float, float, float]
    radius: float
    opacity: float = 0.9
    pressure: float = 0.1
    grain: float = 0.0
    gaps: float = 0.0
    nib: float = 1.0
    hollow: bool = False


INKS = {
    "black": (0.08, 0.08, 0.09),
    "blue": (0.10, 0.16, 0.55),
    "royal": (0.16, 0.25, 0.75),
    "red": (0.70, 0.10, 0.12),
    "green": (0.08, 0.42, 0.20),
    "violet": (0.38, 0.14, 0.52),
    "brown": (0.38, 0.22, 0.12),
    "turquoise": (0.05, 0.45, 0.50),
    "orange": (0.85, 0.38, 0.05),
}
CHALKS = [(0.95, 0.95, 0.92), (0.95, 0.90, 0.55), (0.95, 0.70, 0.70), (0.65, 0.80, 0.95), (0.70, 0.92, 0.70)]


def any_pen(rng: np.random.Generator, kinds: Sequence[str] = ()) -> Pen:
    """A pen for paper, of one of the kinds (default: all), in a colour of its own."""
    kind = str(rng.choice(list(kinds) or ["ballpoint", "gel", "fountain", "felt", "marker", "pencil", "crayon"]))
    often = ["black", "black", "black", "blue", "blue", "royal", "red", "green"]
    names = list(INKS) if kind in ("felt", "marker", "crayon") else often
    colour = np.array(INKS[str(rng.choice(names))]) + rng.normal(0, 0.03, 3)
    between = rng.uniform
    match kind:
        case "ballpoint":
            pen = Pen(kind, (0, 0, 0), between(0.012, 0.03), between(0.7, 0.92), 0.12, grain=between(0, 0.25))
        case "gel":
            pen = Pen(kind, (0, 0, 0), between(0.018, 0.04), between(0.85, 0.97), 0.08)
        case "fountain":
            pen = Pen(kind, (0, 0, 0), between(0.025, 0.05), between(0.8, 0.95), 0.2, nib=between(0.35, 0.8))
        case "felt":
            pen = Pen(kind, (0, 0, 0), between(0.035, 0.065), between(0.8, 0.95), 0.1)
        case "marker":
            pen = Pen(kind, (0, 0, 0), between(0.055, 0.085), between(0.75, 0.95), 0.12, nib=between(0.6, 1))
        case "pencil":
            colour = np.full(3, between(0.2, 0.4))
            pen = Pen(kind, (0, 0, 0), between(0.014, 0.035), between(0.55, 0.85), 0.2, grain=between(0.2, 0.5))
        case _:
            pen = Pen(kind, (0, 0, 0), between(0.04, 0.07), between(0.75, 0.95), 0.2, grain=between(0.3, 0.55))
    red, green, blue = np.clip(colour, 0.02, 0.95).tolist()
    return replace(pen, colour=(red, green, blue))


def chalk(rng: np.random.Generator) -> Pen:
    colour = CHALKS[int(rng.choice(len(CHALKS), p=[0.6, 0.1, 0.1, 0.1, 0.1]))]
    radius, opacity, grain = rng.uniform(0.03, 0.065), rng.uniform(0.78, 0.97), rng.uniform(0.2, 0.5)
    return Pen("chalk", colour, radius, opacity, 0.25, grain)


class Digits:
    """MNIST's test digits as glyphs.

    Args:
        images: uint8 of shape (N, 28, 28).
        target: int of shape (N,).
    """

    def __init__(self, images: np.ndarray, target: np.ndarray) -> None:
        self.images = images
        self.by_class = {str(digit): np.flatnonzero(target == digit) for digit in range(10)}

    def glyph(self, rng: np.random.Generator, digit: str) -> Glyph:
        """One that is drawn by chance; seldom as it was scanned, with its own thickness."""
        image = self.images[rng.choice(self.by_class[digit])]
        return traced(image, int(digit)) if rng.random() < 0.85 else scanned(image)


def _enlarged(image: np.ndarray) -> np.ndarray:
    grown = cv2.resize(image, None, fx=FINE, fy=FINE, interpolation=cv2.INTER_CUBIC)
    return np.clip(cv2.GaussianBlur(grown.astype(np.float32), (0, 0), 0.4 * FINE) / 255, 0, 1)


def scanned(image: np.ndarray) -> Glyph:
    """A glyph with the thickness that the digit has, from an image (28, 28)."""
    ink = _enlarged(image)
    x, y, width, height = cv2.boundingRect((ink > 0.4).astype(np.uint8))
    return Glyph(np.zeros((0, 2, 2)), ink, (x, y, x + width, y + height))


def traced(image: np.ndarray, digit: int) -> Glyph:
    """The centre line of a digit (28, 28); the scan itself, where that would lose a loop or much of the shape."""
    scan = scanned(image)
    mask = _enlarged(image) > 0.4
    thin = _pruned(skeletonize(mask))
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - thin.astype(np.uint8), cv2.DIST_L2, 5)
    if not thin.any():
        return scan
    again = outside <= np.median(inside[thin])
    same = (again & mask).sum() / (again | mask).sum()
    holes = 1 - euler_number(thin, 2)
    if same < 0.7 or holes < HOLES.get(digit, 0) or (digit == 8 and holes != 2):
        return scan
    left, top, right, bottom = scan.box
    points, pairs = _graph(thin)
    return Glyph((points[pairs] - (left, top)) / max(bottom - top, 0.4 * (right - left)))


def _pruned(thin: np.ndarray, shortest: int = 8) -> np.ndarray:
    """A skeleton without its short side branches."""
    around = ndimage.convolve(thin.astype(int), np.ones((3, 3), int), mode="constant") - 1
    crossings = ndimage.binary_dilation(thin & (around > 2), np.ones((3, 3)))
    branches, count = ndimage.label(thin & ~crossings, np.ones((3, 3)))
    if count < 2:
        return thin
    numbers = np.arange(1, count + 1)
    length = ndimage.sum_labels(thin, branches, numbers)
    loose = ndimage.maximum(thin & (around == 1), branches, numbers)
    short = numbers[(length < shortest) & (loose > 0)]
    return thin & ~np.isin(branches, short)


def _graph(thin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A skeleton's smoothed points (N, 2) and the pairs (M, 2) of neighbours among them."""
    number = np.full(np.add(thin.shape, 2), -1)
    number[1:-1, 1:-1][thin] = np.arange(thin.sum())
    pairs = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        start, end = number, np.roll(number, (-dy, -dx), (0, 1))
        joined = (start >= 0) & (end >= 0)
        if dy and dx:  # a diagonal only where no way around the corner is there
            joined &= (np.roll(number, -dy, 0) < 0) & (np.roll(number, -dx, 1) < 0)
        pairs.append(np.stack([start[joined], end[joined]], 1))
    edges = np.concatenate(pairs)
    points = np.argwhere(thin)[:, ::-1].astype(float)
    degree = np.bincount(edges.ravel(), minlength=len(points))[:, None]
    for _ in range(25):  # the steps of the pixels go, the ends stay
        total = np.zeros_like(points)
        np.add.at(total, edges[:, 0], points[edges[:, 1]])
        np.add.at(total, edges[:, 1], points[edges[:, 0]])
        points = np.where(degree > 1, (points + total / np.maximum(degree, 1)) / 2, points)
    return points, edges


# Letters and signs by hand: strokes of points xy in eighths of a digit's height, as hexadecimal digits; `~` is a curve.
LETTERS = {
    "A": "084088 2464", "B": "0008 ~004061634404 ~045475774808", "C": "~71401104174877", "D": "0008 ~004072764808",
    "E": "70000878 0454", "F": "700008 0454", "G": "~7140110417487774 4474", "H": "0008 7078 0474",
    "J": "~5056481806", "K": "0008 600478", "L": "000868", "M": "0800458088", "N": "08007870",
    "P": "0008 ~005062634404", "Q": "~401104174877847140 5578", "R": "0008 ~005062634404 3478", "T": "0080 4048",
    "U": "~00051738576560", "V": "004880", "W": "0028426880", "X": "0078 7008", "Y": "0044 8044 4448",
    "a": "~64431406184866 6368", "d": "~64431406184866 6068", "e": "~066664431406184867", "f": "~61402128 0454",
    "h": "0008 ~0523435558", "k": "0008 5306 2558", "m": "0308 ~0513334548 ~4563738588", "n": "0308 ~0523435558",
    "p": "030b ~04334456381808", "r": "0308 ~05234353", "t": "~20273858 0353", "u": "~0306183856 5358",
    "v": "032853", "w": "0318354863", "x": "0358 5308", "y": "0337 631b",
    "ä": "~64431406184866 6368 2021 5051", "Σ": "7000450878", "π": "0383 2328 6368",
    "Ω": "~28062211405162 ~8858776671503011",
    "β": "020b ~022040515333 ~335466573808",
}  # fmt: skip
IN_WORDS = LETTERS | {  # alone, these look like digits
    "o": "~432314061728475543", "i": "0308 0101", "l": "0008", "s": "~5331042546473808",
    "c": "~53311406183857",
    "g": "~64431406184866 ~636a4b1b", "b": "0008 ~05233355462808", "S": "~61401003446566482807",
    "O": "~401104174877847140",
    "I": "0008", "z": "03530858",
}  # fmt: skip
SYMBOLS = {
    "arrow": "0484 528456", "up arrow": "4840 224062", "check": "053880", "cross": "0088 8008", "star": "084088037308",
    "heart": "~48040110314261828448", "triangle": "08884008", "box": "0080880800", "house": "080340838808",
    "question": "~02114061524445 4748", "hash": "2018 6058 0282 0686", "zigzag": "0026406680", "tilde": "~041324456463",
    "spiral": "~4454553534435364674626124171868848", "lightning": "6024640b", "wave": "~051426455465748596",
    "euro": "~71402112162868 0353 0555", "ampersand": "~782230514206184875", "asterisk": "4147 1265 6215",
    "flag": "000b 007204", "note": "5057 ~574737485857 5073", "anchor": "4048 2262 ~0618487886", "plus": "4147 1474",
    "percent": "8008 ~1001122110 ~6657687766", "at": "~64433445566463728472311304164878",
}  # fmt: skip
SIGNS = {
    "+": "3337 1555", "-": "0555", "=": "0454 0656", "/": "600a", "(": "~300214063a", ")": "~003234360a",
    ":": "0404 0707", ".": "0808", ",": "180a",
}  # fmt: skip


def drawn(strokes: str, rng: np.random.Generator, sloppy: float = 0.25) -> Glyph:
    """A glyph from strokes as above, each point moved by chance by so many eighths of a digit's height."""
    found = []
    for stroke in strokes.split():
        digits = stroke.lstrip("~")
        points = np.array([[int(x, 16), int(y, 16)] for x, y in zip(digits[::2], digits[1::2], strict=False)], float)
        points += rng.normal(0, sloppy, points.shape)
        found.append(curve(points) if stroke[0] == "~" else curve(points, 1, 0.12))
    return Glyph(np.concatenate([segments(points / 8) for points in found]))


def segments(points: np.ndarray) -> np.ndarray:
    """A way through points (N, 2) as (N - 1, 2, 2)."""
    return np.stack([points[:-1], points[1:]], axis=1)


def curve(points: np.ndarray, times: int = 3, cut: float = 0.25) -> np.ndarray:
    """Rounds the corners of a way (N, 2), Chaikin's algorithm."""
    for _ in range(times if len(points) > 2 else 0):
        before, after = points[:-1], points[1:]
        inner = np.stack([before + cut * (after - before), after - cut * (after - before)], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], inner, points[-1:]])
    return points


def ring(x: float, y: float, wide: float, high: float, start: float = 0.0, turn: float = 1.0) -> np.ndarray:
    """Segments of an ellipse, or a part of one: from `start`, over `turn` turns."""
    angle = 2 * np.pi * (start + np.linspace(0, turn, 40))
    return segments(np.stack([x + wide * np.cos(angle), y + high * np.sin(angle)], axis=1))


def scribble(rng: np.random.Generator) -> Glyph:
    """A wild way: loops, hatching or a random walk; never a simple stroke, which could be a digit."""
    kind = rng.integers(3)
    if kind == 0:
        points = curve(rng.uniform(0, 1, (int(rng.integers(7, 14)), 2)))
    elif kind == 1:  # hatching
        count = int(rng.integers(8, 18))
        x = np.linspace(0, rng.uniform(0.8, 1.8), count)
        points = curve(np.stack([x, np.arange(count) % 2 + rng.normal(0, 0.12, count)], 1), 2)
    else:  # loops
        count = int(rng.integers(3, 7))
        angle = np.linspace(0, 2 * np.pi * count, 30 * count)
        wide, high = rng.uniform(0.25, 0.5, 2)
        points = np.stack([wide * np.cos(angle) + angle * rng.uniform(0.02, 0.09), 0.5 + high * np.sin(angle)], 1)
        points += 0.05 * rng.standard_normal((1, 2)) * np.sin(angle[:, None] * rng.uniform(0.2, 0.7))
    return Glyph(segments(points))


def face(rng: np.random.Generator) -> Glyph:
    """A smiley, glad or sad, with or without nose, hair, ears and body; or a stick figure."""
    mood = 0.05 if rng.random() < 0.65 else 0.55
    size = rng.uniform(0.04, 0.09)
    parts = [
        ring(0.5, 0.5, rng.uniform(0.42, 0.55), 0.5, rng.uniform(), rng.uniform(0.96, 1.05)),
        ring(0.33, 0.36, size, size * rng.uniform(0.6, 1.6)),
        ring(0.67, 0.36, size, size * rng.uniform(0.6, 1.6)),
        ring(0.5, 0.58 if mood < 0.5 else 0.84, 0.25, 0.17, mood, 0.4),
    ]
    if rng.random() < 0.4:
        parts.append(segments(np.array([[0.5, 0.42], [0.46, 0.56], [0.53, 0.57]])))
    if rng.random() < 0.3:
        hair = np.linspace(0.2, 0.8, int(rng.integers(3, 8)))
        parts += [segments(np.array([[x, 0.04], [x + rng.normal(0, 0.05), -0.15]])) for x in hair]
    if rng.random() < 0.25:
        body = np.array([[[0.5, 1], [0.5, 1.9]], [[0.1, 1.3], [0.9, 1.3]], [[0.5, 1.9], [0.1, 2.5]]])
        parts += [body, np.array([[[0.5, 1.9], [0.9, 2.5]]])]
    return Glyph(np.concatenate(parts))


@dataclass(frozen=True)
class Hand:
    """What one writer's characters have in common: slant, width, and how much they vary."""

    slant: float
    width: float
    vary: float

    @staticmethod
    def of(rng: np.random.Generator, vary: float = 1.0) -> "Hand":
        return Hand(rng.normal(0, 0.1), rng.uniform(0.85, 1.15), vary * rng.uniform(0.3, 1))


def render(rng: np.random.Generator, glyph: Glyph, height: float, pen: Pen, hand: Hand) -> tuple[np.ndarray, float]:
    """Draws a glyph: the ink's amount (H, W), float32 from 0 to 1, and the row in which a digit's top is.

    Args:
        rng: of the pen's and the hand's chances.
        glyph: what to draw.
        height: pixels of a digit.
        pen: with what.
        hand: whose.
    """
    scale = max(height, SMALLEST_CANVAS) / height
    size = height * scale
    angle, slant = rng.normal(0, 0.05) * hand.vary, hand.slant + rng.normal(0, 0.06) * hand.vary
    matrix = np.array(
        [[np.cos(angle) * hand.width, np.sin(angle) - slant], [-np.sin(angle) * hand.width, np.cos(angle)]]
    )
    radius = pen.radius * size
    if glyph.scan is None:
        bend = _bend(rng, 0.03 * hand.vary)
        points = bend(glyph.segments.reshape(-1, 2)) @ matrix.T * size
        far, top = _far_from(points.reshape(-1, 2, 2), pad=int(2.5 * radius) + 4)
    else:
        far, top, native = _far_from_scan(glyph, size, matrix, pad=int(2.5 * radius) + 4)
        radius = np.clip(radius, 0.95 * native, 1.3 * native)  # thinner, it would break
    shape = far.shape
    around = radius * (1 + pen.pressure * clouds(rng, shape, size / 5)) + 0.03 * radius * clouds(rng, shape, size / 30)
    if pen.nib < 1:
        around = around * (1 - (1 - pen.nib) * 0.5 * (1 + np.sin(_direction(far))))
    around = np.maximum(around, 0.45 * radius)
    ink = np.abs(far - radius * 1.6) - 0.45 * radius if pen.hollow else far - around
    ink = np.clip(0.5 - ink, 0, 1)
    if scale > 1:
        small = (max(1, round(shape[1] / scale)), max(1, round(shape[0] / scale)))
        ink, top = cv2.resize(ink, small, interpolation=cv2.INTER_AREA), top / scale
    if pen.gaps:
        holes = clouds(rng, ink.shape, max(2, height / 9))
        ink = ink * np.clip(4 * (holes - np.quantile(holes, pen.gaps)) + 1, 0, 1)
    if pen.grain:
        grain = clouds(rng, ink.shape, rng.uniform(1, max(1.2, height / 90)))
        ink = ink * (1 - pen.grain * np.clip(0.5 + 0.6 * grain, 0, 1))
    return ink.astype(np.float32), top


def _bend(rng: np.random.Generator, much: float) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth distortion of the plane, by `much` of a digit's height."""
    frequency, phase = rng.uniform(3, 7, (2, 2)), rng.uniform(0, 2 * np.pi, (2, 2))

    def bent(points: np.ndarray) -> np.ndarray:
        waves = np.sin(points[:, None, ::-1] * frequency + phase).sum(axis=1)
        return points + much * waves

    return bent


def _far_from(lines: np.ndarray, pad: int) -> tuple[np.ndarray, float]:
    """Each pixel's distance to segments (N, 2, 2), on a canvas with a margin; and the row of y = 0."""
    origin = np.floor(lines.min(axis=(0, 1))) - pad
    width, height = (np.ceil(lines.max(axis=(0, 1))) - origin + pad + 1).astype(int)
    canvas = np.full((height, width), 255, np.uint8)
    cv2.polylines(canvas, list(np.round(lines - origin).astype(np.int32)), False, 0, 1)
    far = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
    return cv2.GaussianBlur(far, (0, 0), 0.8), float(-origin[1])


def _far_from_scan(glyph: Glyph, size: float, matrix: np.ndarray, pad: int) -> tuple[np.ndarray, float, float]:
    """As `_far_from`, of a scan's middle as if it were a line; besides, the radius of the scan's strokes."""
    assert glyph.scan is not None
    left, top, right, bottom = glyph.box
    scale = size / max(bottom - top, 0.4 * (right - left))
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]]) - (left, top)
    moved = corners @ matrix.T * scale
    origin = np.floor(moved.min(axis=0)) - pad
    width, height = (np.ceil(moved.max(axis=0)) - origin + pad).astype(int)
    affine = np.column_stack([matrix * scale, -(matrix * scale) @ (left, top) - origin])
    ink = cv2.warpAffine(glyph.scan, affine, (int(width), int(height)), flags=cv2.INTER_CUBIC)
    mask = (cv2.GaussianBlur(ink, (0, 0), 0.6 * scale) > 0.4).astype(np.uint8)
    inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (mask, 1 - mask))
    native = float(np.median(inside[skeletonize(mask > 0)])) if mask.any() else 1.0
    return (outside - inside + native).astype(np.float32), float(-origin[1]), max(native, 1.0)


def _direction(far: np.ndarray) -> np.ndarray:
    """Twice the angle of the way to the nearest stroke."""
    smooth = cv2.GaussianBlur(far, (0, 0), 1.5)
    return 2 * np.arctan2(cv2.Sobel(smooth, cv2.CV_32F, 0, 1), cv2.Sobel(smooth, cv2.CV_32F, 1, 0))


def line(
    rng: np.random.Generator,
    glyphs: Sequence[Glyph],
    height: float,
    pen: Pen,
    gap: tuple[float, float] = (0.08, 0.35),
    vary: float = 1.0,
    sizes: Sequence[float] = (),
) -> np.ndarray:
    """Draws glyphs side by side: the ink's amount (H, W).

    Args:
        rng: of its chances.
        glyphs: what to draw.
        height: pixels of a digit.
        pen: with what.
        gap: between the ink of neighbours, from and to, in heights; below 0 they touch.
        vary: how uneven the writing is.
        sizes: of each glyph, as a share of the height (default: all 1); they stand on the line.
    """
    hand = Hand.of(rng, vary)
    canvas = np.zeros((int(2.4 * height) + 8, int((1.9 * len(glyphs) + 2) * height)), np.float32)
    reach = None  # of the ink so far, by row
    for i, glyph in enumerate(glyphs):
        share = (sizes[i] if sizes else 1.0) * (1 + rng.normal(0, 0.05) * hand.vary)
        part, top = render(rng, glyph, height * share, replace(pen, radius=pen.radius / share), hand)
        y = round(0.7 * height + height * (1 - share) - top + rng.normal(0, 0.03) * hand.vary * height)
        y = int(np.clip(y, 0, max(0, len(canvas) - len(part))))
        part = part[: len(canvas) - y]
        inked = part > 0.3
        first = np.where(inked.any(1), inked.argmax(1), 10**6)
        last = np.where(inked.any(1), part.shape[1] - inked[:, ::-1].argmax(1), -(10**6))
        if reach is None:
            x = int(0.3 * height)
            reach = np.full(len(canvas), -(10**6))
        else:  # the ink of neighbouring rows counts too
            near = ndimage.maximum_filter1d(reach, max(3, int(0.3 * height)))[y : y + len(part)]
            x = round((near - first).max() + rng.uniform(*gap) * height)
            x = int(np.clip(x, 0, canvas.shape[1] - part.shape[1]))
        here = canvas[y : y + len(part), x : x + part.shape[1]]
        np.maximum(here, part, out=here)
        reach[y : y + len(part)] = np.maximum(reach[y : y + len(part)], last + x)
    return cropped(canvas)


def cropped(ink: np.ndarray, margin: int = 2) -> np.ndarray:
    """The part of an ink's amounts (H, W) that holds ink, with a margin."""
    x, y, width, height = cv2.boundingRect((ink > 0.1).astype(np.uint8))
    return ink[max(0, y - margin) : y + height + margin, max(0, x - margin) : x + width + margin]
