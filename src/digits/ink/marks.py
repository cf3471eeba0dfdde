"""Draws marks as pens and printers make them: digits, letters, scribbles, drawings, and signs between digits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from digits.glyphs import FORMS, THIN, characters_of, glyph, middle_line, under_a_pen

SEPARATORS = ".,-/()[]+=:"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SYMBOLS = "&%$#@?!*<>~^{}"
SIDE = 112  # pixels that a mark is drawn with, before it is scaled
PEN = 0.13  # width of MNIST's strokes, in heights of a digit


@dataclass(frozen=True)
class Mark:
    """A mark, cut out.

    Args:
        ink: what is seen, from 0 to 1, of shape (H, W).
        clean: how MNIST would have it, with strokes of its width and filled, of the same shape.
        kind: 0: a character or drawing; from 1: the separator of that number.
    """

    ink: np.ndarray
    clean: np.ndarray
    kind: int = 0

    @classmethod
    def cut(cls, ink: np.ndarray, clean: np.ndarray, kind: int = 0) -> Self:
        """Cuts off the empty margins."""
        rows, columns = (np.flatnonzero(np.maximum(ink, clean).max(axis=axis) > 0.1) for axis in (1, 0))
        if not len(rows):
            rows = columns = np.array([len(ink) // 2])
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(np.ascontiguousarray(ink[part]), np.ascontiguousarray(clean[part]), kind)


def digit(image: np.ndarray, rng: np.random.Generator, pen: float, hollow: bool = False) -> Mark:
    """One of MNIST's digits, written with another pen.

    Args:
        image: uint8 (28, 28), light on dark.
        rng: for what varies.
        pen: width of the strokes; 1 is as MNIST has them, 0.4 is a thin one.
        hollow: only the outline.
    """
    large = cv2.resize(image.astype(np.float32) / 255, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    large = cv2.GaussianBlur(large, (0, 0), 2)
    clean = np.clip((large - 0.3) / 0.3, 0, 1)
    solid = (large > 0.45).astype(np.uint8)
    if pen < 0.85 and not hollow:
        from skimage.morphology import skeletonize

        line = (1 - skeletonize(solid > 0)).astype(np.uint8)
        ink = _band(cv2.distanceTransform(line, cv2.DIST_L2, 5), _wobbly(rng, 0.5 * PEN * 80 * pen))
    else:
        out, within = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (1 - solid, solid))
        away = out - within
        if hollow:
            ink = _band(np.abs(away - rng.uniform(0.5, 7)), rng.uniform(1.2, 3.2))
        else:
            ink = _band(away, _wobbly(rng, 0.5 * PEN * 80 * (pen - 1)) + 0.5) if pen > 1.1 else clean
    return Mark.cut(_interrupted(ink, rng) if rng.random() < 0.15 else ink, clean)


def _interrupted(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a pen leaves it that fails here and there."""
    ink = ink.copy()
    for _ in range(rng.integers(1, 4)):
        begin, end = rng.integers(0, SIDE, (2, 2)).tolist()
        cv2.line(ink, begin, end, 0.0, int(rng.integers(3, 9)))
    return ink


def _band(distance: np.ndarray, half_width: np.ndarray | float) -> np.ndarray:
    return np.clip(half_width - distance + 0.5, 0, 1).astype(np.float32)


def _wobbly(rng: np.random.Generator, value: float) -> np.ndarray:
    """A value that varies by a quarter over an image."""
    grid = rng.uniform(0.75, 1.25, (3, 3)).astype(np.float32)
    return value * cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def typed(text: str, rng: np.random.Generator, font: str) -> Mark:
    """A character in a font."""
    ink = glyph(text, font, SIDE - 16).astype(np.float32) / 255
    return Mark.cut(ink, ink, kind_of(text))


def kind_of(text: str) -> int:
    return SEPARATORS.find(text) + 1 if text else 0


def stroked(text: str, rng: np.random.Generator, pen: float) -> Mark:
    """A character written by hand, as a font or print has its strokes."""
    forms = FORMS.get(text, ())
    if forms and rng.random() < 0.7:
        shape = np.array([[rng.uniform(0.6, 1.1), 0], [rng.uniform(-0.3, 0.1), 1]])
        strokes = [_fitted(np.array(line) @ shape) for line in forms[int(rng.integers(len(forms)))]]
        pictures = [_polylines(strokes, width, 2 * SIDE) for width in (PEN * 80 * pen, PEN * 80)]
    else:
        fonts = [font for font in THIN if text in characters_of(font)] or ["DejaVuSans"]
        points = _fitted(middle_line(text, fonts[rng.integers(len(fonts))]) * 2.3)
        pictures = [_dots(points, width) for width in (PEN * 80 * pen, PEN * 80)]
    ink, clean = _elastic(pictures, rng, 9)
    return Mark.cut(ink, clean, kind_of(text))


def _fitted(points: np.ndarray) -> np.ndarray:
    """Points (N, 2) of a character in the middle of a canvas of twice the side."""
    return points + 0.5 * SIDE


def _dots(points: np.ndarray, width: float) -> np.ndarray:
    """A line of points (N, 2), under a round pen, on a canvas of twice the side."""
    canvas = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
    across, down = np.round(points).astype(int).clip(0, 2 * SIDE - 1).T
    canvas[down, across] = 255
    return under_a_pen(canvas, width).astype(np.float32) / 255


def _elastic(pictures: list[np.ndarray], rng: np.random.Generator, most: float) -> list[np.ndarray]:
    """Bends pictures of one shape alike, by up to about `most` pixels."""
    height, width = pictures[0].shape
    grid = rng.normal(0, most / 2, (2, 5, 5)).astype(np.float32)
    across, down = (cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in grid)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x += across
    y += down
    return [cv2.remap(picture, x, y, cv2.INTER_LINEAR) for picture in pictures]


def sign(text: str, rng: np.random.Generator, pen: float) -> Mark:
    """A separator written by hand."""
    half, reach, apart = 0.5 * SIDE, rng.uniform(14, 40), rng.uniform(7, 14)
    jitter = lambda much=0.05: rng.normal(0, much * SIDE)  # noqa: E731
    lines: dict[str, Callable[[], list[np.ndarray]]] = {
        ".": lambda: [np.array([[half, half], [half + 1 + abs(jitter(0.02)), half + jitter(0.02)]])],
        ",": lambda: [np.array([[half, half], [half - 8 + jitter(0.03), half + rng.uniform(12, 22)]])],
        "-": lambda: [_level(half, half, rng.uniform(9, 53), jitter(0.02))],
        "/": lambda: [np.array([[half - rng.uniform(10, 28), 100.0], [half + rng.uniform(10, 28), 12]])],
        "+": lambda: [
            _level(half, half, rng.uniform(16, 36), jitter(0.03)),
            _level(half, half, rng.uniform(16, 36), jitter(0.03))[:, ::-1],
        ],
        "=": lambda: [
            _level(half, half - apart, reach, jitter(0.02)),
            _level(half + jitter(0.02), half + apart, reach * rng.uniform(0.8, 1.2), jitter(0.02)),
        ],
        ":": lambda: [
            np.array([[half, half - 18], [half + 1, half - 18]]),
            np.array([[half, half + 18], [half + 1, half + 19]]),
        ],
        "(": lambda: [_arc(half + 14, 18 + abs(jitter()), 1)],
        ")": lambda: [_arc(half - 14, 18 + abs(jitter()), -1)],
        "[": lambda: [np.array([[half + 10, 8.0], [half - 6, 8], [half - 6, 104], [half + 10, 104]])],
        "]": lambda: [np.array([[half - 10, 8.0], [half + 6, 8], [half + 6, 104], [half - 10, 104]])],
    }
    strokes = lines[text]()
    blob = rng.uniform(1.0, 1.8) if text in ".,:" else 1
    ink, clean = (_polylines(strokes, blob * width) for width in (PEN * 85 * pen, PEN * 85))
    ink, clean = _elastic([ink, clean], rng, 3)
    return Mark.cut(ink, clean, kind_of(text))


def _level(x: float, y: float, reach: float, tilt: float) -> np.ndarray:
    """A line across."""
    return np.array([[x - reach, y - tilt], [x + reach, y + tilt]])


def _arc(x: float, bulge: float, side: int) -> np.ndarray:
    y = np.linspace(6, 106, 12)
    return np.stack([x - side * bulge * np.sin(np.pi * (y - 6) / 100), y], axis=1)


def _polylines(lines: list[np.ndarray], width: float, side: int = SIDE, closed: bool = False) -> np.ndarray:
    canvas = np.zeros((side, side), np.uint8)
    points = [np.round(line * 16).astype(np.int32) for line in lines]
    cv2.polylines(canvas, points, closed, 255, max(1, round(width)), cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / 255


def scribble(rng: np.random.Generator, pen: float) -> Mark:
    """A line that turns at random."""
    turns = rng.integers(3, 10)
    points = rng.uniform(10, SIDE - 10, (turns, 2)).astype(np.float32)
    if rng.random() < 0.5:
        points[:, 0] = np.linspace(10, SIDE - 10, turns) + rng.normal(0, 6, turns)
    smooth = cv2.resize(points[:, None], (1, 12 * turns), interpolation=cv2.INTER_CUBIC)[:, 0]
    line = [smooth if rng.random() < 0.7 else points]
    ink, clean = (_polylines(line, width) for width in (PEN * 85 * pen, PEN * 85))
    return Mark.cut(ink, clean)


def drawing(rng: np.random.Generator, pen: float) -> Mark:
    """A smiley, a star, a heart, an arrow and the like."""
    around = np.linspace(0, 2 * np.pi, 40)
    circle = lambda x, y, r: np.stack([x + r * np.cos(around), y + r * np.sin(around)], axis=1)  # noqa: E731
    mouth = np.linspace(0.2 * np.pi, 0.8 * np.pi, 12)
    star = np.pi * np.arange(11) / 5
    radius = np.where(np.arange(11) % 2, 18, 46)
    figures: list[Callable[[], list[np.ndarray]]] = [
        lambda: [
            circle(56, 56, 46),
            circle(40, 44, 3),
            circle(72, 44, 3),
            np.stack([56 + 26 * np.cos(mouth), 50 + 26 * np.sin(mouth)], axis=1),
        ],
        lambda: [np.stack([56 + radius * np.sin(star), 56 - radius * np.cos(star)], axis=1)],
        lambda: [np.stack([56 + 2.6 * 16 * np.sin(around) ** 3, 52 - 2.6 * _heart(around)], axis=1)],
        lambda: [np.array([[8.0, 56], [104, 56]]), np.array([[76.0, 30], [104, 56], [76, 82]])],
        lambda: [np.array([[56.0, 10], [104, 100], [8, 100], [56, 10]])],
        lambda: [
            np.array([[10.0, 10], [102, 10], [102, 102], [10, 102], [10, 10]]),
            np.array([[10.0, 10], [102, 102]]),
        ],
        lambda: [np.array([[12.0, 60], [44, 96], [100, 14]])],
        lambda: [np.array([[12.0, 104], [12, 50], [56, 10], [100, 50], [100, 104], [12, 104]])],
        lambda: [
            circle(56, 20, 14),
            *(
                np.array([[56.0, y], [x, z]])
                for y, x, z in ((34, 56, 72), (46, 26, 60), (46, 86, 60), (72, 34, 108), (72, 78, 108))
            ),
        ],
        lambda: [circle(56, 56, r) for r in (14, 30, 46)],
        lambda: [np.stack([8 + 15.5 * around, 56 + 20 * np.sin(3 * around)], axis=1)],
        lambda: (
            [np.array([[10.0 + 12 * i, 12], [10.0 + 12 * i, 100]]) for i in range(4)]
            + [np.array([[2.0, 90], [58, 24]])]
        ),
    ]
    lines = figures[rng.integers(len(figures))]()
    ink, clean = (_polylines(lines, width) for width in (PEN * 70 * pen, PEN * 70))
    ink, clean = _elastic([ink, clean], rng, 5)
    return Mark.cut(ink, clean)


def _heart(t: np.ndarray) -> np.ndarray:
    return 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
