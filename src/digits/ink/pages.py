"""Draws pages as people photograph them, with what a network should find on them.

Digits are MNIST's training images; everything else is drawn at random: papers, boards, screens, desks, light, rules,
boxes, letters, scribbles. It needs no picture of anybody's but scikit-image's samples, as things that lie around.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from digits.ink.camera import cropped, framed, lay_on_desk, lit, perspective, surroundings, taken
from digits.ink.sheets import blank_sheet, furnish, inked
from digits.ink.writing import Layers, write

PRINTED = 0.15  # of the pages that are not screens
MOST_DEGREES = 40  # that a page is turned by

Write = Callable[[Layers, np.ndarray, np.random.Generator, int, bool], None]


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


def page(rng: np.random.Generator, digits: np.ndarray, side: int = 256, write: Write = write) -> Page:
    """Draws a page.

    Args:
        rng: decides all that varies.
        digits: images to take digits from: uint8 (N, 28, 28).
        side: of the picture, in pixels.
        write: writes the marks.
    """
    work = round(1.5 * side)
    kind = rng.choice(
        ["paper", "dark", "chalkboard", "whiteboard", "screen", "panel", "photo"],
        p=[0.58, 0.08, 0.1, 0.07, 0.1, 0.03, 0.04],
    )
    sheet, ground = blank_sheet(kind, rng, work)
    layers = Layers(work)
    if kind != "photo" and rng.random() > 0.06:
        write(layers, digits, rng, side, kind == "screen" or rng.random() < PRINTED)
    sheet = furnish(sheet, ground, layers, kind, rng)
    sheet = inked(sheet, ground, layers, kind, rng)

    desk = kind in ("paper", "dark") and rng.random() < 0.35
    turned = desk or rng.random() < 0.25
    angle = float(np.clip(rng.normal(0, 14), -MOST_DEGREES, MOST_DEGREES)) if turned else float(rng.normal(0, 2.5))
    if kind == "screen":
        angle = 0.0 if rng.random() < 0.8 else angle
    matrix = perspective(rng, angle, work, side, layers.boxes, upright=kind == "screen")
    if kind == "photo":
        sheet, desk = surroundings(rng, work), False
    image = cv2.warpPerspective(sheet, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    clean, labels = (
        cv2.warpPerspective(part, matrix, (side, side), flags=how)
        for part, how in ((layers.clean, cv2.INTER_LINEAR), (layers.labels, cv2.INTER_NEAREST))
    )
    if desk:
        image, hidden = lay_on_desk(image, matrix, layers, rng, work, side)
        clean, labels = clean * ~hidden, labels * ~hidden
    image = lit(image, rng, plain=kind == "screen")
    if rng.random() < 0.06 and labels.any():
        image, clean, labels = cropped(image, clean, labels, rng, side)
    elif rng.random() < 0.05:
        framed(image, rng)
    return Page(taken(image, rng, plain=kind == "screen"), clean, labels, layers.kinds, angle)
