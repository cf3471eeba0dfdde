"""Draws pages as people photograph them, with what a network should find on them.

Digits are MNIST's training images; everything else is drawn at random: papers, boards, screens, desks, light, rules,
boxes, letters, scribbles. No picture of anybody's is needed, but scikit-image's samples as things that lie around.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from digits.ink import marks
from digits.ink.marks import Mark

FONTS_SHARE = 0.15  # of the pages that are printed
MOST_ANGLE = 40  # degrees that a page is turned by


@dataclass
class Page:
    """A picture and what is on it.

    Args:
        image: uint8 (S, S, 3).
        clean: the ink of the marks as MNIST would have it, from 0 to 1: (S, S).
        labels: number of the mark that a pixel belongs to, int16 (S, S); 0: none.
        kinds: of each mark, by its number; the first is not one: see `Mark`.
        angle: of the lines, in degrees; clockwise.
    """

    image: np.ndarray
    clean: np.ndarray
    labels: np.ndarray
    kinds: list[int]
    angle: float


@dataclass
class _Layers:
    """A sheet while it is written on: `Page`'s layers, and the ink that is seen."""

    side: int
    ink: np.ndarray = field(init=False)
    clean: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)
    kinds: list[int] = field(default_factory=lambda: [0])
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)

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


def page(rng: np.random.Generator, digits: np.ndarray, side: int = 256) -> Page:
    """Draws a page.

    Args:
        rng: decides all that varies.
        digits: images to take digits from: uint8 (N, 28, 28).
        side: of the picture, in pixels.
    """
    work = round(1.5 * side)
    kind = rng.choice(
        ["paper", "dark", "chalkboard", "whiteboard", "screen", "panel", "photo"],
        p=[0.58, 0.08, 0.1, 0.07, 0.1, 0.03, 0.04],
    )
    sheet, ground = _sheet(kind, rng, work)
    layers = _Layers(work)
    if kind != "photo" and rng.random() > 0.06:
        _write(layers, digits, rng, side, printed=kind == "screen" or rng.random() < FONTS_SHARE)
    sheet = _furniture(sheet, ground, layers, kind, rng)
    sheet = _inked(sheet, ground, layers, kind, rng)

    desk = kind in ("paper", "dark") and rng.random() < 0.3
    turned = desk or rng.random() < 0.25
    angle = float(np.clip(rng.normal(0, 14), -MOST_ANGLE, MOST_ANGLE)) if turned else float(rng.normal(0, 2.5))
    if kind == "screen":
        angle = 0.0 if rng.random() < 0.8 else angle
    matrix = _camera(rng, angle, work, side, layers.boxes, upright=kind == "screen")
    if kind == "photo":
        sheet, desk = _surroundings(rng, work), False
    warp = lambda part, how: cv2.warpPerspective(
        part, matrix, (side, side), flags=how, borderMode=cv2.BORDER_REFLECT_101
    )
    image = warp(sheet, cv2.INTER_LINEAR)
    clean, labels = (
        cv2.warpPerspective(part, matrix, (side, side), flags=how)
        for part, how in ((layers.clean, cv2.INTER_LINEAR), (layers.labels, cv2.INTER_NEAREST))
    )
    if desk:
        image, hidden = _on_desk(image, matrix, layers, rng, work, side)
        clean, labels = clean * ~hidden, labels * ~hidden
    image = _lit(image, rng, plain=kind == "screen")
    if rng.random() < 0.06 and labels.any():
        image, clean, labels = _tight(image, clean, labels, rng, side)
    elif rng.random() < 0.05:
        _frame(image, rng)
    return Page(_taken(image, rng, plain=kind == "screen"), clean, labels, layers.kinds, angle)


def _write(layers: _Layers, digits: np.ndarray, rng: np.random.Generator, side: int, printed: bool) -> None:
    """Writes one mark, a line, or several lines, somewhere in the middle of the sheet."""
    middle = layers.side / 2
    lines = int(rng.choice([0, 1, 2, 3, 4, 5], p=[0.34, 0.34, 0.12, 0.1, 0.06, 0.04]))
    pen = float(np.exp(rng.normal(-0.25, 0.4)))
    font = marks.fonts()[rng.integers(len(marks.fonts()))] if printed else None
    words = float(rng.choice([0, 1, 0.5], p=[0.74, 0.2, 0.06]))  # the share of marks that are no digits
    if not lines:
        height = float(np.exp(rng.uniform(np.log(11), np.log(0.8 * side))))
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
    gap = rng.choice([rng.uniform(-0.24, 0.0), rng.uniform(0.05, 0.35), rng.uniform(0.3, 0.9)], p=[0.22, 0.53, 0.25])
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
    layers: _Layers,
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
    begin, signs = x, rng.random() < 0.3
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


def _put_sign(layers: _Layers, mark: Mark, text: str, x: float, y: float, height: float, printed: bool) -> float:
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
    return marks.digit(digits[rng.integers(len(digits))], rng, pen, hollow=rng.random() < 0.03)


# Sheets


def _octaves(rng: np.random.Generator, side: int, *cells: int) -> np.ndarray:
    """Smooth noise with features of several sizes, with a standard deviation of about 1: (side, side)."""
    total = np.zeros((side, side), np.float32)
    for number in cells:
        grid = rng.normal(0, 1, (number + 1, number + 1)).astype(np.float32)
        total += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return total / len(cells) ** 0.5


def _colour(rng: np.random.Generator, lightness: float, saturation: float) -> np.ndarray:
    """A colour (3,) from 0 to 255."""
    tint = rng.normal(0, 1, 3)
    return np.clip(lightness + saturation * (tint - tint.mean()), 0, 255).astype(np.float32)


def _sheet(kind: str, rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An empty sheet, float32 (side, side, 3), and its colour (3,)."""
    match kind:
        case "paper":
            ground = _colour(rng, rng.uniform(170, 253), rng.choice([3, 14]))
            grain = rng.uniform(0, 4) * _octaves(rng, side, 90, 40) + rng.uniform(0, 5) * _octaves(rng, side, 5)
        case "dark":
            ground = _colour(rng, rng.uniform(5, 75), rng.choice([3, 14]))
            grain = rng.uniform(0, 3) * _octaves(rng, side, 60, 20)
        case "chalkboard":
            ground = _colour(rng, rng.uniform(30, 80), 4) + np.float32(rng.uniform(0, 25)) * np.array(
                [0, 1, 0.3], np.float32
            )
            smear = cv2.resize(_octaves(rng, side // 4, 30, 12), (side, side // 3))
            smear = cv2.resize(smear, (side, side), interpolation=cv2.INTER_CUBIC)
            grain = rng.uniform(1, 12) * smear + rng.uniform(0, 6) * _octaves(rng, side, 4, 9)
        case "whiteboard":
            ground = _colour(rng, rng.uniform(185, 245), 4)
            grain = rng.uniform(0, 3) * _octaves(rng, side, 3, 6)
        case "panel":
            ground = _colour(rng, rng.uniform(0, 255), 40)
            grain = np.zeros((side, side), np.float32)
        case _:  # a screen
            ground = _colour(
                rng,
                rng.choice([rng.uniform(225, 255), rng.uniform(0, 60), rng.uniform(60, 220)], p=[0.6, 0.3, 0.1]),
                rng.choice([0, 6, 30]),
            )
            grain = np.zeros((side, side), np.float32)
    return ground + grain[..., None], ground


def _line(
    sheet: np.ndarray, a: tuple[float, float], b: tuple[float, float], colour: np.ndarray, width: float, strength: float
) -> None:
    """Draws a line of any width, also less than a pixel, in place."""
    mask = np.zeros(sheet.shape[:2], np.uint8)
    ends = [tuple(int(round(16 * value)) for value in point) for point in (a, b)]
    cv2.line(mask, *ends, 255, max(1, round(width)), cv2.LINE_AA, shift=4)
    _blend(sheet, mask, colour, strength * min(1, width))


def _blend(sheet: np.ndarray, mask: np.ndarray, colour: np.ndarray, strength: float) -> None:
    x, y, w, h = cv2.boundingRect(mask)
    if w and h:
        here = np.s_[y : y + h, x : x + w]
        alpha = (mask[here].astype(np.float32) * (strength / 255))[..., None]
        sheet[here] += alpha * (colour - sheet[here])


def _contrast(ground: np.ndarray, rng: np.random.Generator, least: float = 45) -> np.ndarray:
    """A colour that is seen on the ground."""
    light = ground.mean()
    room = (light - least, 255 - light - least)
    darker = rng.random() < (0.97 if light > 150 else 0.03 if light < 100 else room[0] / max(1, sum(room)))
    value = rng.uniform(0, max(1, light - least)) if darker else rng.uniform(min(254, light + least), 255)
    if rng.random() < 0.6:
        value = value * 0.6 if darker else 255 - (255 - value) * 0.6
    return _colour(rng, value, rng.choice([3, 45]))


def _furniture(
    sheet: np.ndarray, ground: np.ndarray, layers: _Layers, kind: str, rng: np.random.Generator
) -> np.ndarray:
    """What is printed or drawn on the sheet besides: rules, grids, boxes, circles, underlines, panels, widgets."""
    side = layers.side
    colour = _contrast(ground, rng, 12) if rng.random() < 0.75 else ground * rng.uniform(0.55, 0.9)
    strength, width = rng.uniform(0.25, 1), float(np.exp(rng.uniform(np.log(0.4), np.log(3))))
    if kind in ("paper", "dark", "whiteboard", "chalkboard") and rng.random() < (0.5 if kind == "paper" else 0.2):
        _rules(sheet, colour, strength, width, rng)
    boxes = layers.boxes
    if boxes and rng.random() < 0.3:
        _around(sheet, boxes, _contrast(ground, rng, 25), rng)
    if kind == "panel" or rng.random() < 0.03:
        _panel(sheet, boxes, rng)
    if kind == "screen" and rng.random() < 0.6:
        for _ in range(rng.integers(1, 6)):
            x, y = rng.uniform(0, side, 2)
            w, h = rng.uniform(0.1, 0.9) * side, rng.uniform(0.02, 0.3) * side
            mask = np.zeros((side, side), np.uint8)
            corner = (int(x - w / 2), int(y - h / 2)), (int(x + w / 2), int(y + h / 2))
            cv2.rectangle(mask, *corner, 255, -1 if rng.random() < 0.4 else int(rng.integers(1, 4)), cv2.LINE_AA)
            if not (mask > 0)[layers.labels > 0].any():
                _blend(sheet, mask, _colour(rng, rng.uniform(0, 255), 40), rng.uniform(0.2, 1))
    return sheet


def _rules(sheet: np.ndarray, colour: np.ndarray, strength: float, width: float, rng: np.random.Generator) -> None:
    side = len(sheet)
    step = float(np.exp(rng.uniform(np.log(9), np.log(120))))
    start, which = rng.uniform(0, step), rng.random()
    mask = np.zeros((side, side), np.uint8)
    places = np.arange(start, side, step)
    thick = max(1, round(width))
    if which < 0.8:
        for place in places:
            cv2.line(mask, (0, int(16 * place)), (16 * side, int(16 * place)), 255, thick, cv2.LINE_AA, shift=4)
            if which > 0.45:
                cv2.line(mask, (int(16 * place), 0), (int(16 * place), 16 * side), 255, thick, cv2.LINE_AA, shift=4)
        if which < 0.2:
            x = int(16 * rng.uniform(0, side))
            other = np.zeros_like(mask)
            cv2.line(other, (x, 0), (x, 16 * side), 255, thick, cv2.LINE_AA, shift=4)
            _blend(sheet, other, _contrast(sheet[0, 0], rng, 20), strength)
    else:
        for x in places:
            for y in places:
                cv2.circle(mask, (int(16 * x), int(16 * y)), int(8 * width + 6), 255, -1, cv2.LINE_AA, shift=4)
    _blend(sheet, mask, colour, strength * min(1, width))


def _around(
    sheet: np.ndarray, boxes: list[tuple[int, int, int, int]], colour: np.ndarray, rng: np.random.Generator
) -> None:
    """Boxes, combs, circles, underlines, a struck-through margin: around each mark, or around all of them."""
    tall = float(np.median([box[3] - box[1] for box in boxes]))
    thick = max(1, round(float(np.exp(rng.uniform(np.log(0.015), np.log(0.09)))) * tall))
    which = rng.choice(["boxes", "frame", "circles", "circle", "underline", "comb", "cells"])
    groups = boxes if which in ("boxes", "circles", "comb") else [_union(boxes)]
    if which in ("boxes", "comb", "cells"):
        groups = sorted(boxes)
    mask = np.zeros(sheet.shape[:2], np.uint8)
    pad = rng.uniform(0.02, 0.6) * tall
    rows: list[list[tuple[int, int, int, int]]] = []
    for box in sorted(groups, key=lambda box: box[1] + box[3]):
        if rows and abs(rows[-1][0][1] + rows[-1][0][3] - box[1] - box[3]) < tall:
            rows[-1].append(box)
        else:
            rows.append([box])
    for row in rows:
        top, bottom = min(b[1] for b in row) - pad, max(b[3] for b in row) + pad
        row.sort()
        edges = [row[0][0] - pad, *(0.5 * (a[2] + b[0]) for a, b in zip(row, row[1:], strict=False)), row[-1][2] + pad]
        if which == "cells":
            cv2.rectangle(mask, _at(edges[0], top), _at(edges[-1], bottom), 255, thick, cv2.LINE_AA)
        for (left, right), box in zip(zip(edges, edges[1:], strict=False), row, strict=True):
            match which:
                case "boxes":
                    inset = rng.uniform(0, 0.06) * tall
                    cv2.rectangle(mask, _at(left + inset, top), _at(right - inset, bottom), 255, thick, cv2.LINE_AA)
                case "cells":
                    cv2.line(mask, _at(right, top), _at(right, bottom), 255, thick, cv2.LINE_AA)
                case "comb":
                    cv2.line(mask, _at(left, bottom), _at(right, bottom), 255, thick, cv2.LINE_AA)
                    for x in (left, right):
                        cv2.line(mask, _at(x, bottom - 0.4 * tall), _at(x, bottom), 255, thick, cv2.LINE_AA)
                case "frame":
                    cv2.rectangle(
                        mask, _at(box[0] - pad, box[1] - pad), _at(box[2] + pad, box[3] + pad), 255, thick, cv2.LINE_AA
                    )
                case "underline":
                    y = box[3] + 0.5 * pad
                    for k in range(1 + (rng.random() < 0.2)):
                        a, b = (
                            _at(box[0] - pad, y + k * 3 * thick),
                            _at(box[2] + pad, y + k * 3 * thick + rng.normal(0, 0.05) * tall),
                        )
                        cv2.line(mask, a, b, 255, thick, cv2.LINE_AA)
                case _:
                    centre = _at(0.5 * (box[0] + box[2]), 0.5 * (box[1] + box[3]))
                    half = (round(0.62 * (box[2] - box[0]) + pad), round(0.62 * (box[3] - box[1]) + pad))
                    if rng.random() < 0.5:
                        half = (max(half), max(half)) if max(half) < 3 * min(half) else half
                    cv2.ellipse(
                        mask,
                        centre,
                        half,
                        rng.uniform(0, 360) if half[0] == half[1] else 0,
                        0,
                        rng.choice([360, 345]),
                        255,
                        thick,
                        cv2.LINE_AA,
                    )
    _blend(sheet, mask, colour, rng.uniform(0.4, 1))


def _at(x: float, y: float) -> tuple[int, int]:
    return round(x), round(y)


def _union(boxes: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    edges = np.array(boxes)
    low, high = edges.min(axis=0), edges.max(axis=0)
    return int(low[0]), int(low[1]), int(high[2]), int(high[3])


def _panel(sheet: np.ndarray, boxes: list[tuple[int, int, int, int]], rng: np.random.Generator) -> None:
    """A dark or light plate behind the marks, with a border."""
    side = len(sheet)
    left, top, right, bottom = (
        _union(boxes) if boxes else tuple(int(v) for v in np.sort(rng.uniform(0, side, (2, 2)), axis=0).ravel())
    )
    pad = rng.uniform(0.15, 0.8) * max(10, bottom - top)
    mask = np.zeros((side, side), np.uint8)
    corners = _at(left - pad, top - pad), _at(right + pad, bottom + pad)
    cv2.rectangle(mask, *corners, 255, -1)
    colour = _colour(rng, rng.choice([rng.uniform(0, 70), rng.uniform(190, 255)]), rng.choice([3, 30]))
    _blend(sheet, mask, colour, 1)
    if rng.random() < 0.7:
        border = np.zeros((side, side), np.uint8)
        cv2.rectangle(border, *corners, 255, int(rng.integers(1, max(2, int(0.3 * pad)))), cv2.LINE_AA)
        _blend(sheet, border, 255 - colour, 1)


def _inked(sheet: np.ndarray, ground: np.ndarray, layers: _Layers, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The sheet with the ink on it."""
    if not layers.boxes:
        return sheet
    side = layers.side
    left, top, right, bottom = (int(np.clip(value, 0, side - 1)) for value in _union(layers.boxes))
    under = (
        np.median(sheet[top : bottom + 1 : 2, left : right + 1 : 2].reshape(-1, 3), axis=0)
        if right > left and bottom > top
        else ground
    )
    colour, alpha = _contrast(under, rng), layers.ink
    if kind == "chalkboard":
        colour = _colour(rng, rng.uniform(150, 255), rng.choice([4, 30]))
    if kind == "chalkboard" or (kind == "paper" and rng.random() < 0.35):  # chalk and pencil are grainy
        grain = _octaves(rng, side, side // 2, side // 4)
        alpha = alpha * np.clip(rng.uniform(0.55, 1.1) + rng.uniform(0.1, 0.5) * grain, 0, 1)
    else:
        alpha = alpha * np.clip(rng.uniform(0.7, 1.05) + rng.uniform(0, 0.12) * _octaves(rng, side, 8, 20), 0, 1)
    alpha = (alpha * (rng.uniform(0.4, 0.8) if rng.random() < 0.2 else 1))[..., None]
    return sheet + alpha * (colour - sheet)


# The camera


def _camera(
    rng: np.random.Generator, angle: float, work: int, side: int, boxes: list[tuple[int, int, int, int]], upright: bool
) -> np.ndarray:
    """Perspective matrix (3, 3) from the sheet to the picture: turned by the angle, in degrees clockwise."""
    half, turn = side / 2, np.deg2rad(angle)
    zoom = 1 if upright else rng.uniform(0.95, 1.12)
    corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    seen = (corners @ rotation.T) * zoom
    if not upright:
        seen += rng.normal(0, 0.025 * side, (4, 2))
    return cv2.getPerspectiveTransform((corners + work / 2).astype(np.float32), (seen + half).astype(np.float32))


@cache
def _photos() -> list[np.ndarray]:
    import skimage

    names = (
        "brick",
        "grass",
        "gravel",
        "coffee",
        "chelsea",
        "rocket",
        "camera",
        "moon",
        "ihc",
        "coins",
        "astronaut",
        "motorcycle_left",
    )
    folder = Path(skimage.__file__).parent / "data"
    files = [path for name in names for path in folder.glob(f"{name}.*")]
    return [cv2.imread(str(path))[..., ::-1] for path in files]


def _surroundings(rng: np.random.Generator, side: int) -> np.ndarray:
    """What a sheet lies on, float32 (side, side, 3): wood, cloth, stone, a photograph, or things on top of each other."""
    ground = _colour(rng, rng.uniform(25, 200), rng.choice([5, 35]))
    which = rng.random()
    if which < 0.3:  # wood
        grain = cv2.resize(
            rng.normal(0, 1, (int(rng.integers(20, 120)), 4)).astype(np.float32),
            (side, side),
            interpolation=cv2.INTER_CUBIC,
        )
        grain += 0.5 * _octaves(rng, side, 6)
        texture = ground + rng.uniform(5, 28) * grain[..., None] * np.array([1.2, 1, 0.8], np.float32)
        return np.ascontiguousarray(np.rot90(texture, rng.integers(2)))
    if which < 0.55:  # cloth, stone
        cells = rng.choice([60, 30, 15], 2)
        return ground + rng.uniform(3, 25) * _octaves(rng, side, *cells)[..., None]
    if which < 0.75:
        photos = _photos()
        photo = photos[rng.integers(len(photos))]
        size = int(min(rng.uniform(80, 500), *photo.shape[:2]))
        y, x = (rng.integers(0, extent - size + 1) for extent in photo.shape[:2])
        return cv2.resize(photo[y : y + size, x : x + size], (side, side), interpolation=cv2.INTER_AREA).astype(
            np.float32
        )
    image = np.empty((side, side, 3), np.float32)  # dead leaves
    image[:] = ground
    for radius in np.sort(rng.pareto(1.5, 40))[::-1]:
        size = min(0.5, 0.03 * (1 + radius)) * side
        x, y = rng.uniform(0, side, 2)
        colour = _colour(rng, rng.uniform(10, 245), 30).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(
                image,
                _at(x, y),
                _at(size, size * rng.uniform(0.2, 1)),
                rng.uniform(0, 360),
                0,
                360,
                colour,
                -1,
                cv2.LINE_AA,
            )
        else:
            box = cv2.boxPoints(((x, y), (size * 2, size * rng.uniform(0.1, 2)), rng.uniform(0, 90)))
            cv2.fillConvexPoly(image, box.astype(np.int32), colour, cv2.LINE_AA)
    return image + 6 * _octaves(rng, side, 60)[..., None]


def _on_desk(
    image: np.ndarray, matrix: np.ndarray, layers: _Layers, rng: np.random.Generator, work: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the sheet out, lays it on something, and tells which pixels are not on the sheet any more."""
    if layers.boxes:
        left, top, right, bottom = _union(layers.boxes)
    else:
        left = top = work / 2 - 20
        right = bottom = work / 2 + 20
    tall = min(60, max(8, np.median([b[3] - b[1] for b in layers.boxes]) if layers.boxes else 30))
    pads = np.exp(rng.uniform(np.log(0.25 * tall), np.log(0.5 * side), 4))
    corners = np.array(
        [
            [left - pads[0], top - pads[1]],
            [right + pads[2], top - pads[1]],
            [right + pads[2], bottom + pads[3]],
            [left - pads[0], bottom + pads[3]],
        ]
    )
    seen = cv2.perspectiveTransform(corners[None].astype(np.float32), matrix)[0]
    mask = np.zeros((side, side), np.uint8)
    cv2.fillConvexPoly(mask, np.round(seen * 16).astype(np.int32), 255, cv2.LINE_AA, shift=4)
    around = _surroundings(rng, side)
    if rng.random() < 0.6:  # the sheet's own shadow
        shift = rng.normal(0, 4, 2)
        shadow = cv2.warpAffine(mask, np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32), (side, side))
        around *= (
            1 - rng.uniform(0.1, 0.6) * cv2.GaussianBlur(shadow, (0, 0), rng.uniform(1, 5)).astype(np.float32) / 255
        )[..., None]
    alpha = (mask.astype(np.float32) / 255)[..., None]
    return image * alpha + around * (1 - alpha), mask < 128


def _lit(image: np.ndarray, rng: np.random.Generator, plain: bool) -> np.ndarray:
    """Light from somewhere, shadows, and glare."""
    side = len(image)
    if plain or rng.random() < 0.25:
        return image
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    light = 1 + rng.uniform(0, 0.25) * (rng.uniform(-1, 1) * ramp[None] + rng.uniform(-1, 1) * ramp[:, None])
    if rng.random() < 0.3:
        light = light - rng.uniform(0.1, 0.45) * (ramp[None] ** 2 + ramp[:, None] ** 2) / 2
    light *= rng.uniform(0.5, 1.05)
    for _ in range(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15])):
        corners = int(rng.integers(3, 6))
        middle, size = rng.uniform(0, side, 2), rng.uniform(0.15, 0.9) * side
        turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
        points = middle + size * np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(0.5, 1.3, (corners, 1))
        mask = np.zeros((side, side), np.float32)
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1.0)
        mask = cv2.GaussianBlur(mask, (0, 0), float(np.exp(rng.uniform(np.log(0.6), np.log(14)))))
        light *= 1 - rng.uniform(0.15, 0.6) * mask
    image = image * light[..., None]
    if rng.random() < 0.12:  # glare
        mask = np.zeros((side, side), np.float32)
        size = rng.uniform(0.08, 0.5, 2) * side
        cv2.ellipse(mask, _at(*rng.uniform(0, side, 2)), _at(*size), rng.uniform(0, 180), 0, 360, 1.0, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(3, 25))
        image = image + rng.uniform(40, 160) * mask[..., None]
    return image


def _tight(
    image: np.ndarray, clean: np.ndarray, labels: np.ndarray, rng: np.random.Generator, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts the picture close to the marks; its edge is repeated to fill the square, as before the network."""
    x, y, w, h = cv2.boundingRect((labels > 0).astype(np.uint8))
    margin = rng.integers(0, max(2, int(0.08 * max(w, h))), 4)
    x0, y0, x1, y1 = (
        max(0, x - margin[0]),
        max(0, y - margin[1]),
        min(side, x + w + margin[2]),
        min(side, y + h + margin[3]),
    )
    right, bottom = side - (x1 - x0), side - (y1 - y0)
    parts = [part[y0:y1, x0:x1] for part in (image, clean, labels)]
    pads = [(0, bottom), (0, right)]
    return np.pad(parts[0], [*pads, (0, 0)], mode="edge"), np.pad(parts[1], pads), np.pad(parts[2], pads)


def _frame(image: np.ndarray, rng: np.random.Generator) -> None:
    """Lines along the edges of the picture, in place."""
    side, colour = len(image), _colour(rng, rng.uniform(0, 255), 10).tolist()
    at, thick = int(rng.integers(0, 6)), int(rng.integers(1, 7))
    cv2.rectangle(image, (at, at), (side - 1 - at, side - 1 - at), colour, thick)


def _taken(image: np.ndarray, rng: np.random.Generator, plain: bool) -> np.ndarray:
    """What a camera makes of it: blur, noise, a tint, and JPEG."""
    if not plain:
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.6))
        if rng.random() < 0.5:
            image = image * rng.uniform(0.85, 1.1, 3).astype(np.float32)
        if rng.random() < 0.7:
            noise = rng.standard_normal(image.shape[:2] if rng.random() < 0.5 else image.shape, np.float32)
            image = image + rng.uniform(0, 9) * (noise[..., None] if noise.ndim == 2 else noise)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, code = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 96))])
        pixels = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return np.repeat(pixels.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2) if rng.random() < 0.25 else pixels
