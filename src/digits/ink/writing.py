"""Writes marks on a sheet: one of them, a line, or several lines."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from digits.ink import marks
from digits.ink.marks import Mark

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass
class Layers:
    """A sheet while it is written on: `Page`'s layers, and the ink that is seen."""

    side: int
    ink: np.ndarray = field(init=False)
    clean: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)
    kinds: list[int] = field(default_factory=lambda: [0])
    boxes: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (self.side, self.side)
        self.ink, self.clean = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.labels = np.zeros(shape, np.int16)

    def put(self, mark: Mark, x: float, y: float, height: float) -> float:
        """Puts a mark with its top left corner there, and returns its width."""
        scale = height / mark.clean.shape[0]
        return self.put_scaled(mark, x, y, scale)

    def put_scaled(self, mark: Mark, x: float, y: float, scale: float) -> float:
        size = [max(1, round(side * scale)) for side in mark.clean.shape[::-1]]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        ink, clean = (cv2.resize(part, size, interpolation=how) for part in (mark.ink, mark.clean))
        left, top = round(x), round(y)
        x0, y0, x1, y1 = max(0, left), max(0, top), min(self.side, left + size[0]), min(self.side, top + size[1])
        if x1 <= x0 or y1 <= y0:
            return size[0]
        here, part = np.s_[y0:y1, x0:x1], np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        own = np.maximum(clean[part], 0.5 * ink[part])
        self.kinds.append(mark.kind)
        self.labels[here][(own > 0.2) & (clean[part] >= self.clean[here])] = len(self.kinds) - 1
        self.ink[here] = np.maximum(self.ink[here], ink[part])
        self.clean[here] = np.maximum(self.clean[here], clean[part])
        self.boxes.append((left, top, left + size[0], top + size[1]))
        return size[0]


def write(layers: Layers, digits: np.ndarray, rng: np.random.Generator, side: int, printed: bool) -> None:
    """Writes one mark, a line, or several lines, somewhere in the middle of the sheet."""
    middle = layers.side / 2
    lines = int(rng.choice([0, 1, 2, 3, 4, 5], p=[0.34, 0.34, 0.12, 0.1, 0.06, 0.04]))
    pen = float(np.exp(rng.normal(-0.2, 0.5)))
    font = marks.fonts()[rng.integers(len(marks.fonts()))] if printed else None
    words = float(rng.choice([0, 1, 0.5], p=[0.74, 0.2, 0.06]))  # the share of marks that are no digits
    if not lines:
        height = float(np.exp(rng.uniform(np.log(11), np.log(0.95 * side))))
        reach = max(0, 0.5 * (side - height))
        mark = _any_mark(digits, rng, pen, font, words)
        tall = max(mark.clean.shape)
        x, y = (middle + rng.uniform(-reach, reach) for _ in range(2))
        shape = [part * height / tall for part in mark.clean.shape]
        layers.put_scaled(mark, x - shape[1] / 2, y - shape[0] / 2, height / tall)
        if rng.random() < 0.12:  # more of them, far apart
            for _ in range(rng.integers(1, 4)):
                mark = _any_mark(digits, rng, pen, font, words)
                x, y = (middle + rng.uniform(-0.5, 0.5) * side for _ in range(2))
                box = np.array([x - height, y - height, x + height, y + height])
                if all(_apart(box, other) for other in layers.boxes):
                    layers.put(mark, x, y, height * rng.uniform(0.7, 1.2) * min(1, mark.clean.shape[0] / tall))
        return
    longest = int(rng.integers(2, 11))
    fits = side / max(0.75 * longest, 1.5 * lines)
    height = float(np.exp(rng.uniform(np.log(min(10, fits)), np.log(1.15 * fits))))
    spacing = rng.uniform(1.15, 2.1) * height
    gap = rng.choice([rng.uniform(-0.24, 0.0), rng.uniform(0.05, 0.35), rng.uniform(0.3, 0.9)], p=[0.28, 0.49, 0.23])
    if font:
        gap = rng.uniform(0.08, 0.3)
    left = middle - 0.36 * longest * height + rng.uniform(-0.15, 0.15) * side
    top = middle - 0.5 * lines * spacing + rng.uniform(-0.12, 0.12) * side
    ragged, right_aligned, unsteady = rng.random() < 0.4, rng.random() < 0.25, 0 if font else rng.uniform(0, 0.07)
    slope = 0 if font else rng.normal(0, 0.02)
    for i in range(lines):
        count = int(rng.integers(2, longest + 1)) if ragged else longest
        x = left + (longest - count) * 0.72 * height if right_aligned else left
        if rng.random() < 0.15:
            x += rng.uniform(-1, 1) * height
        _write_line(
            layers, digits, rng, (x, top + i * spacing), height, count, gap, pen, font, words, (unsteady, slope)
        )


def _apart(a: np.ndarray, b: tuple[int, ...]) -> bool:
    return bool(a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1])


def _write_line(
    layers: Layers,
    digits: np.ndarray,
    rng: np.random.Generator,
    start: tuple[float, float],
    height: float,
    count: int,
    gap: float,
    pen: float,
    font: Path | None,
    words: float,
    steadiness: tuple[float, float],
) -> None:
    (x, y), (unsteady, slope) = start, steadiness
    begin, signs = x, rng.random() < 0.38
    pen_varies = rng.random() < 0.2
    small = rng.random() < 0.04  # zeros written small
    for i in range(count):
        own_pen = pen * float(np.exp(rng.normal(0, 0.5))) if pen_varies else pen
        base = y + slope * (x - begin) + rng.normal(0, unsteady) * height
        if signs and rng.random() < (0.25 if i else 0.3):
            text = marks.SEPARATORS[
                rng.choice(len(marks.SEPARATORS), p=[0.24, 0.12, 0.2, 0.12, 0.05, 0.05, 0.03, 0.03, 0.08, 0.05, 0.03])
            ]
            mark = marks.typed(text, rng, font) if font else marks.sign(text, rng, own_pen)
            x += _put_sign(layers, mark, text, x, base, height, printed=font is not None) + (max(gap, 0.08)) * height
            continue
        mark = _any_mark(digits, rng, own_pen, font, words)
        tall = height * (float(np.exp(rng.normal(0, unsteady))) if unsteady else 1)
        if small and i:
            tall *= 0.55
        if words == 1 and mark.clean.shape[0] < 70:  # a small letter
            tall *= 0.7
        x += layers.put(mark, x, base + height - tall, tall)
        x += gap * height + rng.normal(0, 0.4 * abs(gap)) * height * (not font)
        if words and rng.random() < 0.12:
            x += 0.5 * height


def _put_sign(layers: Layers, mark: Mark, text: str, x: float, y: float, height: float, printed: bool) -> float:
    scale = height / (72 if printed else 88)
    shape = mark.clean.shape
    lower = {".": height - shape[0] * scale, ",": height - 0.6 * shape[0] * scale}
    y += lower.get(text, 0.5 * (height - shape[0] * scale))
    return layers.put_scaled(mark, x, y, scale)


def _any_mark(digits: np.ndarray, rng: np.random.Generator, pen: float, font: Path | None, words: float) -> Mark:
    other = rng.random() < words
    if font:
        text = marks.LETTERS if other else "0123456789"
        return marks.typed(text[rng.integers(len(text))], rng, font)
    if other:
        which = rng.random()
        if which < 0.6:
            text = marks.LETTERS[rng.integers(len(marks.LETTERS))]
            if rng.random() < 0.15:
                text = marks.SYMBOLS[rng.integers(len(marks.SYMBOLS))]
            return marks.stroked(text, rng, pen)
        return marks.scribble(rng, pen) if which < 0.8 else marks.drawing(rng, pen)
    if rng.random() < 0.12:
        return marks.stroked("0123456789"[rng.integers(10)], rng, pen)
    return marks.digit(digits[rng.integers(len(digits))], rng, pen, hollow=rng.random() < 0.1)


def at(x: float, y: float) -> tuple[int, int]:
    """A point as OpenCV wants it."""
    return round(x), round(y)


def union(boxes: list[Box]) -> Box:
    """The box around all of them."""
    edges = np.array(boxes)
    low, high = edges.min(axis=0), edges.max(axis=0)
    return int(low[0]), int(low[1]), int(high[2]), int(high[3])
