"""Papers, boards and screens: their grain, what is printed on them, and the ink on them."""

import itertools

import cv2
import numpy as np

from digits.ink.writing import Box, Layers, at, union


def octaves(rng: np.random.Generator, side: int, *cells: int) -> np.ndarray:
    """Smooth noise with features of several sizes, with a standard deviation of about 1: (side, side)."""
    total = np.zeros((side, side), np.float32)
    for number in cells:
        grid = rng.normal(0, 1, (number + 1, number + 1)).astype(np.float32)
        total += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return total / len(cells) ** 0.5


def colour_of(rng: np.random.Generator, lightness: float, saturation: float) -> np.ndarray:
    """A colour (3,) from 0 to 255."""
    tint = rng.normal(0, 1, 3)
    return np.clip(lightness + saturation * (tint - tint.mean()), 0, 255).astype(np.float32)


def blank_sheet(kind: str, rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An empty sheet, float32 (side, side, 3), and its colour (3,)."""
    match kind:
        case "paper":
            ground = colour_of(rng, rng.uniform(170, 253), rng.choice([3, 14]))
            grain = rng.uniform(0, 4) * octaves(rng, side, 90, 40) + rng.uniform(0, 5) * octaves(rng, side, 5)
        case "dark":
            ground = colour_of(rng, rng.uniform(5, 75), rng.choice([3, 14]))
            grain = rng.uniform(0, 3) * octaves(rng, side, 60, 20)
        case "chalkboard":
            ground = colour_of(rng, rng.uniform(30, 80), 4) + np.float32(rng.uniform(0, 25)) * np.array(
                [0, 1, 0.3], np.float32
            )
            smear = cv2.resize(octaves(rng, side // 4, 30, 12), (side, side // 3))
            smear = cv2.resize(smear, (side, side), interpolation=cv2.INTER_CUBIC)
            grain = rng.uniform(1, 12) * smear + rng.uniform(0, 6) * octaves(rng, side, 4, 9)
        case "whiteboard":
            ground = colour_of(rng, rng.uniform(185, 245), 4)
            grain = rng.uniform(0, 3) * octaves(rng, side, 3, 6)
        case "panel":
            ground = colour_of(rng, rng.uniform(0, 255), 40)
            grain = np.zeros((side, side), np.float32)
        case _:  # a screen
            ground = colour_of(
                rng,
                rng.choice([rng.uniform(225, 255), rng.uniform(0, 60), rng.uniform(60, 220)], p=[0.6, 0.3, 0.1]),
                rng.choice([0, 6, 30]),
            )
            grain = np.zeros((side, side), np.float32)
    return ground + grain[..., None], ground


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
    return colour_of(rng, value, rng.choice([3, 45]))


def furnish(sheet: np.ndarray, ground: np.ndarray, layers: Layers, kind: str, rng: np.random.Generator) -> np.ndarray:
    """What is printed or drawn on the sheet besides: rules, grids, boxes, circles, underlines, panels, widgets."""
    side = layers.side
    colour = _contrast(ground, rng, 12) if rng.random() < 0.75 else ground * rng.uniform(0.55, 0.9)
    strength, width = rng.uniform(0.25, 1), float(np.exp(rng.uniform(np.log(0.4), np.log(3))))
    if kind in ("paper", "dark", "whiteboard", "chalkboard") and rng.random() < (0.5 if kind == "paper" else 0.2):
        _rules(sheet, colour, strength, width, rng)
    if kind in ("paper", "whiteboard") and rng.random() < 0.15:
        _marred(sheet, rng)
    boxes = layers.boxes
    if boxes and rng.random() < 0.42:
        drawn = _around(sheet.shape[:2], boxes, rng)
        if rng.random() < 0.5:  # with the pen that wrote the marks
            layers.ink = np.maximum(layers.ink, drawn.astype(np.float32) / 255)
        else:
            _blend(sheet, drawn, _contrast(ground, rng, 25), rng.uniform(0.4, 1))
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
                _blend(sheet, mask, colour_of(rng, rng.uniform(0, 255), 40), rng.uniform(0.2, 1))
    return sheet


def _marred(sheet: np.ndarray, rng: np.random.Generator) -> None:
    """Creases, punched holes, and rings of cups."""
    side = len(sheet)
    mask = np.zeros((side, side), np.uint8)
    x, y = rng.uniform(0, side, 2)
    match rng.integers(3):
        case 0:
            far = rng.uniform(-side, side, 2)
            cv2.line(
                mask, at(x - far[0], y - far[1]), at(x + far[0], y + far[1]), 255, int(rng.integers(1, 4)), cv2.LINE_AA
            )
        case 1:
            radius, step = int(rng.integers(3, 16)), rng.uniform(25, 150)
            for place in np.arange(y % step, side, step):
                cv2.circle(mask, at(x, place), radius, 255, -1, cv2.LINE_AA)
        case _:
            radius = int(rng.integers(15, 120))
            start = rng.uniform(0, 360)
            end = start + rng.uniform(120, 360)
            cv2.ellipse(mask, at(x, y), (radius, radius), 0, start, end, 255, int(rng.integers(1, 7)), cv2.LINE_AA)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 2.5))
    _blend(sheet, mask, colour_of(rng, rng.uniform(30, 255), 15), rng.uniform(0.15, 0.8))


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
        for across, down in itertools.product(places, places):
            cv2.circle(mask, (int(16 * across), int(16 * down)), int(8 * width + 6), 255, -1, cv2.LINE_AA, shift=4)
    _blend(sheet, mask, colour, strength * min(1, width))


def _around(shape: tuple[int, int], boxes: list[Box], rng: np.random.Generator) -> np.ndarray:
    """Boxes, combs, circles, underlines: around each mark, or around all of them: uint8 of the sheet's shape."""
    tall = float(np.median([box[3] - box[1] for box in boxes]))
    thick = max(1, round(float(np.exp(rng.uniform(np.log(0.015), np.log(0.09)))) * tall))
    kinds = ["boxes", "frame", "circles", "circle", "underline", "comb", "cells"]
    which = rng.choice(kinds, p=[0.14, 0.14, 0.16, 0.18, 0.2, 0.08, 0.1])
    groups = boxes if which in ("boxes", "circles", "comb") else [union(boxes)]
    if which in ("boxes", "comb", "cells"):
        groups = sorted(boxes)
    mask = np.zeros(shape, np.uint8)
    pad = rng.uniform(0.02, 0.6) * tall
    for row in _in_rows(groups, tall):
        top, bottom = min(b[1] for b in row) - pad, max(b[3] for b in row) + pad
        edges = [row[0][0] - pad, *(0.5 * (a[2] + b[0]) for a, b in itertools.pairwise(row)), row[-1][2] + pad]
        if which == "cells":
            cv2.rectangle(mask, at(edges[0], top), at(edges[-1], bottom), 255, thick, cv2.LINE_AA)
        for (left, right), box in zip(itertools.pairwise(edges), row, strict=True):
            match which:
                case "boxes":
                    inset = rng.uniform(0, 0.06) * tall
                    cv2.rectangle(mask, at(left + inset, top), at(right - inset, bottom), 255, thick, cv2.LINE_AA)
                case "cells":
                    cv2.line(mask, at(right, top), at(right, bottom), 255, thick, cv2.LINE_AA)
                case "comb":
                    cv2.line(mask, at(left, bottom), at(right, bottom), 255, thick, cv2.LINE_AA)
                    for x in (left, right):
                        cv2.line(mask, at(x, bottom - 0.4 * tall), at(x, bottom), 255, thick, cv2.LINE_AA)
                case "frame":
                    cv2.rectangle(
                        mask, at(box[0] - pad, box[1] - pad), at(box[2] + pad, box[3] + pad), 255, thick, cv2.LINE_AA
                    )
                case "underline":
                    y = box[3] + 0.5 * pad
                    if len(boxes) > 4 and rng.random() < 0.5:  # above the last line: a sum
                        y = max(b[3] for b in boxes) - 1.3 * tall
                    for k in range(2 if rng.random() < 0.2 else 1):
                        a, b = (
                            at(box[0] - pad, y + k * 3 * thick),
                            at(box[2] + pad, y + k * 3 * thick + rng.normal(0, 0.05) * tall),
                        )
                        cv2.line(mask, a, b, 255, thick, cv2.LINE_AA)
                case _:
                    centre = at(0.5 * (box[0] + box[2]), 0.5 * (box[1] + box[3]))
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
    return mask


def _in_rows(boxes: list[Box], tall: float) -> list[list[Box]]:
    """Boxes from top to bottom, those of a row together, from left to right."""
    rows: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: box[1] + box[3]):
        if rows and abs(rows[-1][0][1] + rows[-1][0][3] - box[1] - box[3]) < tall:
            rows[-1].append(box)
        else:
            rows.append([box])
    return [sorted(row) for row in rows]


def _panel(sheet: np.ndarray, boxes: list[Box], rng: np.random.Generator) -> None:
    """A dark or light plate behind the marks, with a border."""
    side = len(sheet)
    left, top, right, bottom = (
        union(boxes) if boxes else tuple(int(v) for v in np.sort(rng.uniform(0, side, (2, 2)), axis=0).ravel())
    )
    pad = rng.uniform(0.15, 0.8) * max(10, bottom - top)
    mask = np.zeros((side, side), np.uint8)
    corners = at(left - pad, top - pad), at(right + pad, bottom + pad)
    cv2.rectangle(mask, *corners, 255, -1)
    colour = colour_of(rng, rng.choice([rng.uniform(0, 70), rng.uniform(190, 255)]), rng.choice([3, 30]))
    _blend(sheet, mask, colour, 1)
    if rng.random() < 0.7:
        border = np.zeros((side, side), np.uint8)
        cv2.rectangle(border, *corners, 255, int(rng.integers(1, max(2, int(0.3 * pad)))), cv2.LINE_AA)
        _blend(sheet, border, 255 - colour, 1)


def inked(sheet: np.ndarray, ground: np.ndarray, layers: Layers, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The sheet with the ink on it."""
    if not layers.boxes:
        return sheet
    side = layers.side
    left, top, right, bottom = (int(np.clip(value, 0, side - 1)) for value in union(layers.boxes))
    under = (
        np.median(sheet[top : bottom + 1 : 2, left : right + 1 : 2].reshape(-1, 3), axis=0)
        if right > left and bottom > top
        else ground
    )
    colour, alpha = _contrast(under, rng), layers.ink
    if kind == "chalkboard":
        colour = colour_of(rng, rng.uniform(150, 255), rng.choice([4, 30]))
    if kind == "chalkboard" or (kind == "paper" and rng.random() < 0.35):  # chalk and pencil are grainy
        grain = octaves(rng, side, side // 2, side // 4)
        alpha = alpha * np.clip(rng.uniform(0.55, 1.1) + rng.uniform(0.1, 0.5) * grain, 0, 1)
    else:
        alpha = alpha * np.clip(rng.uniform(0.7, 1.05) + rng.uniform(0, 0.12) * octaves(rng, side, 8, 20), 0, 1)
    alpha = (alpha * (rng.uniform(0.4, 0.8) if rng.random() < 0.2 else 1))[..., None]
    return sheet + alpha * (colour - sheet)
