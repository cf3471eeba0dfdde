"""Writes marks on a sheet: one of them, a line, or several lines."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from digits.glyphs import FONTS
from digits.ink import marks
from digits.ink.marks import Mark

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

LINES, SHARES_OF_LINES = (0, 1, 2, 3, 4, 5), (0.32, 0.38, 0.12, 0.1, 0.05, 0.03)  # 0: a mark alone
SIGNS = 0.5  # of the lines have signs
SHARES_OF_SIGNS = (0.24, 0.12, 0.18, 0.12, 0.05, 0.05, 0.03, 0.03, 0.1, 0.05, 0.03)  # in the order of SEPARATORS


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


@dataclass(frozen=True)
class Hand:
    """Who writes, and how.

    Args:
        pen: width of the strokes; 1 is as MNIST has them.
        varies: the pen's width changes from mark to mark.
        font: that prints instead; None: a hand writes.
        others: share of marks that are no digits.
        gap: between marks, in heights of one; less than 0: they overlap.
        unsteady: how far marks leave the line, in heights.
        slope: of the lines.
        slender: share of digits that are as narrow as a 1.
    """

    pen: float
    varies: bool
    font: str | None
    others: float
    gap: float
    unsteady: float
    slope: float
    slender: float

    @classmethod
    def drawn(cls, rng: np.random.Generator, printed: bool) -> "Hand":
        ranges = [(-0.26, 0.0), (0.05, 0.35), (0.3, 0.9)]
        gap = rng.uniform(*ranges[rng.choice(3, p=[0.32, 0.48, 0.2])])
        return cls(
            pen=float(np.exp(rng.normal(-0.2, 0.5))),
            varies=rng.random() < 0.2,
            font=FONTS[rng.integers(len(FONTS))] if printed else None,
            others=float(rng.choice([0, 1, 0.5], p=[0.76, 0.18, 0.06])),
            gap=rng.uniform(0.08, 0.3) if printed else gap,
            unsteady=0 if printed else rng.uniform(0, 0.07),
            slope=0 if printed else rng.normal(0, 0.02),
            slender=0.8 if rng.random() < 0.08 else 0,
        )

    def mark(self, digits: np.ndarray, rng: np.random.Generator) -> Mark:
        """A digit, or something else."""
        other = rng.random() < self.others
        if self.font:
            text = marks.LETTERS if other else "0123456789"
            return marks.typed(text[rng.integers(len(text))], rng, self.font)
        pen = self.pen * float(np.exp(rng.normal(0, 0.5))) if self.varies else self.pen
        if other:
            which = rng.random()
            text = marks.SYMBOLS if rng.random() < 0.15 else marks.LETTERS
            if which < 0.6:
                return marks.stroked(text[rng.integers(len(text))], rng, pen)
            return marks.scribble(rng, pen) if which < 0.8 else marks.drawing(rng, pen)
        if rng.random() < 0.12:
            return marks.stroked("0123456789"[rng.integers(10)], rng, pen)
        image = digits[rng.integers(len(digits))]
        if rng.random() < self.slender:
            several = digits[rng.integers(len(digits), size=12)]
            image = min(several, key=lambda one: int((one > 127).any(axis=0).sum()))
        return marks.digit(image, rng, pen, hollow=rng.random() < 0.12)

    def sign(self, text: str, rng: np.random.Generator) -> Mark:
        return marks.typed(text, rng, self.font) if self.font else marks.sign(text, rng, self.pen)


def write(layers: Layers, digits: np.ndarray, rng: np.random.Generator, side: int, printed: bool) -> None:
    """Writes one mark, a line, or several lines, somewhere in the middle of the sheet."""
    hand, lines = Hand.drawn(rng, printed), int(rng.choice(LINES, p=SHARES_OF_LINES))
    if not lines:
        _write_alone(layers, digits, rng, hand, side)
        return
    middle, longest = layers.side / 2, int(rng.integers(2, 11))
    fits = side / max(0.75 * longest, 1.5 * lines)
    height = float(np.exp(rng.uniform(np.log(min(10, fits)), np.log(1.15 * fits))))
    spacing = rng.uniform(1.15, 2.1) * height
    left = middle - 0.36 * longest * height + rng.uniform(-0.15, 0.15) * side
    top = middle - 0.5 * lines * spacing + rng.uniform(-0.12, 0.12) * side
    ragged, right_aligned = rng.random() < 0.4, rng.random() < 0.25
    a_sum = lines > 1 and rng.random() < 0.25
    for i in range(lines):
        count = int(rng.integers(2, longest + 1)) if ragged else longest
        x = left + (longest - count) * 0.72 * height if right_aligned or a_sum else left
        if rng.random() < 0.15:
            x += rng.uniform(-1, 1) * height
        text = "#" * count
        if a_sum and i == max(1, lines - 2):
            text, x = "+-"[rng.integers(2)] + text, x - 0.72 * height
        elif rng.random() < SIGNS:
            text = _with_signs(count, rng)
        _write_line(layers, digits, rng, hand, text, (x, top + i * spacing), height)
    if a_sum:
        y = top + (lines - 1) * spacing - 0.5 * (spacing - height)
        width = max(1, round(marks.PEN * height * hand.pen))
        ends = left - rng.uniform(0, 1) * height, left + (0.8 * longest + rng.uniform(0, 1)) * height
        rule = np.zeros(layers.ink.shape, np.uint8)
        cv2.line(rule, at(ends[0], y), at(ends[1], y + rng.normal(0, 0.05) * height), 255, width, cv2.LINE_AA)
        layers.ink = np.maximum(layers.ink, rule.astype(np.float32) / 255)


def _write_alone(layers: Layers, digits: np.ndarray, rng: np.random.Generator, hand: Hand, side: int) -> None:
    """One mark, or a few that are far apart."""
    middle, height = layers.side / 2, float(np.exp(rng.uniform(np.log(11), np.log(0.95 * side))))
    reach = max(0, 0.5 * (side - height))
    mark = hand.mark(digits, rng)
    tall = max(mark.clean.shape)
    x, y = (middle + rng.uniform(-reach, reach) for _ in range(2))
    shape = [part * height / tall for part in mark.clean.shape]
    layers.put_scaled(mark, x - shape[1] / 2, y - shape[0] / 2, height / tall)
    if rng.random() > 0.12:
        return
    for _ in range(rng.integers(1, 4)):
        mark = hand.mark(digits, rng)
        x, y = (middle + rng.uniform(-0.5, 0.5) * side for _ in range(2))
        box = np.array([x - height, y - height, x + height, y + height])
        if all(_apart(box, other) for other in layers.boxes):
            layers.put(mark, x, y, height * rng.uniform(0.7, 1.2) * min(1, mark.clean.shape[0] / tall))


def _apart(a: np.ndarray, b: tuple[int, ...]) -> bool:
    return bool(a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1])


def _with_signs(count: int, rng: np.random.Generator) -> str:
    """A line of about so many marks as people write them, such as "##.##"; # is a mark."""

    def marks_of(least: int = 1) -> str:
        return "#" * int(rng.integers(least, max(least, count // 2) + 1))

    match rng.choice(
        ["decimal", "negative", "groups", "formula", "brackets", "any"], p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.15]
    ):
        case "decimal":
            return marks_of() + rng.choice([".", ","], p=[0.7, 0.3]) + marks_of()
        case "negative":
            return rng.choice(["-", "+"], p=[0.8, 0.2]) + "#" * max(1, count - 1)
        case "groups":
            return str(rng.choice([".", "-", "/", ":"])).join([marks_of(2), marks_of(2), *["##"] * rng.integers(2)])
        case "formula":
            return marks_of() + str(rng.choice(["+", "-", "/"])) + marks_of() + rng.choice(["=", ""]) + "#"
        case "brackets":
            return str(rng.choice(["(#)", "[#]", "#)", "#."])).replace("#", marks_of(), 1) + rng.choice(["", "##"])
    share = [0.3, *[0.25] * (count - 1)]
    signs = rng.choice(list(marks.SEPARATORS), count, p=SHARES_OF_SIGNS)
    return "".join(sign if rng.random() < part else "#" for sign, part in zip(signs, share, strict=True))


def _write_line(
    layers: Layers,
    digits: np.ndarray,
    rng: np.random.Generator,
    hand: Hand,
    text: str,
    start: tuple[float, float],
    height: float,
) -> None:
    """Writes a line from its top left; in the text, # is a mark, and the others are signs."""
    x, y = start
    small = len(text) if rng.random() > 0.06 else int(rng.integers(1, max(2, len(text))))  # from here on, all is small
    by = rng.uniform(0.4, 0.7)
    for i, character in enumerate(text):
        base = y + hand.slope * (x - start[0]) + rng.normal(0, hand.unsteady) * height
        if character != "#":
            mark = hand.sign(character, rng)
            x += _put_sign(layers, mark, character, x, base, height, hand, rng) + max(hand.gap, 0.08) * height
            continue
        mark = hand.mark(digits, rng)
        tall = height * (float(np.exp(rng.normal(0, hand.unsteady))) if hand.unsteady else 1)
        if i >= small:
            tall *= by
        if hand.others == 1 and mark.clean.shape[0] < 70:  # a small letter
            tall *= 0.7
        x += layers.put(mark, x, base + height - tall, tall)
        x += hand.gap * height + rng.normal(0, 0.4 * abs(hand.gap)) * height * (not hand.font)
        if hand.others and rng.random() < 0.12:
            x += 0.5 * height


def _put_sign(
    layers: Layers,
    mark: Mark,
    text: str,
    x: float,
    y: float,
    height: float,
    hand: Hand,
    rng: np.random.Generator,
) -> float:
    scale = height / (72 if hand.font else 88)
    shape = mark.clean.shape
    lower = {".": height - shape[0] * scale, ",": height - 0.6 * shape[0] * scale}
    y += lower.get(text, 0.5 * (height - shape[0] * scale)) + rng.normal(0, hand.unsteady) * height
    return layers.put_scaled(mark, x, y, scale)


def at(x: float, y: float) -> tuple[int, int]:
    """A point as OpenCV wants it."""
    return round(x), round(y)


def union(boxes: list[Box]) -> Box:
    """The box around all of them."""
    edges = np.array(boxes)
    low, high = edges.min(axis=0), edges.max(axis=0)
    return int(low[0]), int(low[1]), int(high[2]), int(high[3])
