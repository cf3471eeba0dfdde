"""Finds the marks on a picture: which pixels are whose ink, what kind of mark it is, and on which line it stands."""

import math
import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import onnxruntime

NETWORK = Path(os.environ.get("INK", Path(__file__).parent / "ink.onnx"))  # python -m digits.ink.train writes it
SEPARATORS = ".,-/()[]+=:"  # in the order of the network's kinds
CELL, OFFSET_UNIT, MULTIPLE = 4, 32, 32  # as of digits.ink.network

GLANCE = 200_000  # pixels of the first look at the whole picture
SMALL = 256  # pixels of the longer side that a smaller picture is enlarged to for it
READ_AT = 44  # pixels of a mark's height for the second look
GOOD = (28, 88)  # heights for which no second look is needed
LEVEL = 5.0  # degrees: lines that are turned by more are turned back for the second look
MOST = 900_000  # pixels of the second look

INK = 0.4  # probability from which a pixel is ink
MIDDLE = 0.25  # and a cell the middle of a mark


@dataclass(frozen=True)
class Mark:
    """A mark that was found.

    Args:
        ink: how much of a pixel it covers, from 0 to 1, of shape (H, W): the mark alone, upright, without a margin.
        box: where in the picture it is: left, top, right, bottom, in pixels; the last two are just outside.
        separator: the sign that it is, such as a decimal point; empty: a character, or anything else.
        line: that it stands on, from 0, from top to bottom.
    """

    ink: np.ndarray
    box: tuple[float, float, float, float]
    separator: str = ""
    line: int = 0


@dataclass(frozen=True)
class _View:
    """A part of a picture as the network is shown it, and what it said.

    Args:
        matrix: from the picture to the view: (2, 3).
        ink: (H, W), from 0 to 1.
        middle: (H/4, W/4), from 0 to 1.
        offset: (2, H/4, W/4), across and down, in pixels.
        sine: of the angle of the lines: (H/4, W/4).
        kinds: probabilities: (kinds, H/4, W/4).
    """

    matrix: np.ndarray
    ink: np.ndarray
    middle: np.ndarray
    offset: np.ndarray
    sine: np.ndarray
    kinds: np.ndarray


@dataclass
class _Spot:
    """A mark in a view: its pixels' rows and columns."""

    rows: np.ndarray
    columns: np.ndarray
    kind: int
    sine: float
    box: tuple[int, int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        left, top = int(self.columns.min()), int(self.rows.min())
        self.box = left, top, int(self.columns.max()) + 1, int(self.rows.max()) + 1

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]

    @property
    def width(self) -> int:
        return self.box[2] - self.box[0]

    @property
    def size(self) -> int:
        return max(self.height, self.width)


@cache
def _network() -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(NETWORK.read_bytes(), options, providers=["CPUExecutionProvider"])


def find_marks(picture: Image.Image) -> list[Mark]:
    """Finds the marks on a picture, line by line from top to bottom, each from left to right.

    The network looks twice: at the whole picture, and then at the part that has marks on it, turned upright and scaled
    such that they have the size that it sees best.

    Args:
        picture: in mode L or RGB.
    """
    pixels = np.asarray(picture.convert("RGB"))
    view, spots = _glance(pixels)
    if not spots:
        return []
    characters = [spot for spot in spots if not spot.kind] or spots
    height = float(np.median([spot.size for spot in characters]))
    angle = math.degrees(math.asin(float(np.clip(np.median([spot.sine for spot in characters]), -1, 1))))
    if not GOOD[0] <= height <= GOOD[1] or abs(angle) > LEVEL:
        closer = _second_look(pixels, view, spots, READ_AT / height, angle if abs(angle) > LEVEL else 0.0)
        found = _spots(closer)
        if found:
            view, spots = closer, found
    spots = _plausible(spots)
    return [replace(_mark(view, spot), line=number) for number, line in enumerate(_lines(spots)) for spot in line]


def _glance(pixels: np.ndarray) -> tuple[_View, list[_Spot]]:
    """The whole picture; where nothing is found, also twice and half as large."""
    height, width = pixels.shape[:2]
    scale = min(math.sqrt(GLANCE / (height * width)), max(1.0, SMALL / max(height, width)))
    view, spots = None, []
    for factor in (1, 2, 0.4):
        if factor > 1 and scale >= 1:
            continue
        view = _look(
            pixels,
            np.array([[scale * factor, 0, 0], [0, scale * factor, 0]]),
            (round(width * scale * factor), round(height * scale * factor)),
        )
        spots = _spots(view)
        if spots:
            break
    return view, spots


def _second_look(pixels: np.ndarray, view: _View, spots: list[_Spot], zoom: float, angle: float) -> _View:
    boxes = np.array([spot.box for spot in spots], float)
    margin = 1.2 * float(np.median([spot.size for spot in spots])) + 4
    left, top = boxes[:, :2].min(axis=0) - margin
    right, bottom = boxes[:, 2:].max(axis=0) + margin
    to_view = np.vstack([view.matrix, [0, 0, 1]])
    turn = math.radians(-angle)
    rotation = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    corners = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]]).T
    turned = (rotation @ corners)[:2]
    low, high = turned.min(axis=1), turned.max(axis=1)
    if angle:  # the corners of the turned box are empty: what matters is where the marks are
        middles = np.vstack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, np.ones(len(boxes))])
        seen = (rotation @ middles)[:2]
        half = boxes[:, 2:] - boxes[:, :2]
        reach = float(half.max()) * 0.75 + margin
        low, high = seen.min(axis=1) - reach, seen.max(axis=1) + reach
    zoom = min(zoom, math.sqrt(MOST / float(np.prod(np.maximum(high - low, 1)))))
    place = np.array([[zoom, 0, -zoom * low[0]], [0, zoom, -zoom * low[1]], [0, 0, 1]])
    matrix = (place @ rotation @ to_view)[:2]
    return _look(pixels, matrix, tuple(max(MULTIPLE, math.ceil(v)) for v in zoom * (high - low)))


def _look(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> _View:
    """Shows the network a view of a given width and height."""
    import cv2

    width, height = (max(2 * MULTIPLE, MULTIPLE * math.ceil(side / MULTIPLE)) for side in size)
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    shown = pixels
    inner = matrix.copy()
    if scale < 0.7:  # warping alone would leave out pixels
        smaller = cv2.resize(
            pixels, [max(1, round(side * scale)) for side in pixels.shape[1::-1]], interpolation=cv2.INTER_AREA
        )
        factor = np.array([smaller.shape[1] / pixels.shape[1], smaller.shape[0] / pixels.shape[0]])
        inner[:, :2] /= factor
        shown = smaller
    how = cv2.INTER_LINEAR if scale < 1.5 else cv2.INTER_CUBIC
    shown = cv2.warpAffine(shown, inner, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
    ink, cells = _network().run(None, {"pixels": np.ascontiguousarray(shown.transpose(2, 0, 1))[None]})
    cells = cells[0]
    return _View(matrix, ink[0], cells[0], cells[1:3] * OFFSET_UNIT, cells[3], cells[4:])


def _spots(view: _View) -> list[_Spot]:
    """Gives each pixel with ink to the middle that it points at."""
    import cv2

    highest = cv2.dilate(view.middle, np.ones((3, 3), np.uint8))
    peaks = np.argwhere((view.middle >= highest) & (view.middle > MIDDLE))
    rows, columns = np.nonzero(view.ink > INK)
    if not len(peaks) or not len(rows):
        return []
    at = rows // CELL, columns // CELL
    points = np.stack([columns + view.offset[0][at], rows + view.offset[1][at]], axis=1)
    places = peaks[:, ::-1] * CELL + (CELL - 1) / 2
    own = _nearest(points, places)
    strength = np.bincount(own, minlength=len(peaks))
    kept = strength > 3
    if not kept.all() and kept.any():
        peaks, places = peaks[kept], places[kept]
        own = _nearest(points, places)
    spots = []
    for number in range(len(peaks)):
        mine = own == number
        if mine.sum() < 4:
            continue
        where = at[0][mine], at[1][mine]
        kinds = view.kinds[:, where[0], where[1]].mean(axis=1)
        spots.append(_Spot(rows[mine], columns[mine], int(kinds.argmax()), float(np.median(view.sine[where]))))
    return spots


def _nearest(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    return cKDTree(places).query(points)[1]


def _plausible(spots: list[_Spot]) -> list[_Spot]:
    """Without what is much smaller than the rest and no separator."""
    tall = max(spot.size for spot in spots)
    return [spot for spot in spots if spot.kind or spot.size > 0.2 * tall]


def _lines(spots: list[_Spot]) -> list[list[_Spot]]:
    """Sorts marks into lines: a mark belongs to the line whose band its middle is in."""
    lines: list[list[_Spot]] = []
    for spot in sorted(spots, key=lambda spot: -spot.height):
        middle = (spot.box[1] + spot.box[3]) / 2
        best, least = None, 0.5
        for line in lines:
            near = min(line, key=lambda other: abs(other.box[0] - spot.box[0]))
            centre, tall = (near.box[1] + near.box[3]) / 2, max(near.height, spot.height)
            away = abs(middle - centre) / tall
            if away < least:
                best, least = line, away
        if best is None:
            lines.append([spot])
        else:
            best.append(spot)
    for line in lines:
        line.sort(key=lambda spot: spot.box[0] + spot.box[2])
    return sorted(lines, key=lambda line: float(np.median([spot.box[1] + spot.box[3] for spot in line])))


def _mark(view: _View, spot: _Spot) -> Mark:
    left, top, right, bottom = spot.box
    # The soft edge of a stroke is where the ink falls off.
    margin = 2
    x0, y0 = max(0, left - margin), max(0, top - margin)
    x1, y1 = min(view.ink.shape[1], right + margin), min(view.ink.shape[0], bottom + margin)
    own = np.zeros((y1 - y0, x1 - x0), bool)
    own[spot.rows - y0, spot.columns - x0] = True
    others = (view.ink[y0:y1, x0:x1] > INK) & ~own
    import cv2

    near = cv2.dilate(own.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
    ink = np.where(near & ~others, view.ink[y0:y1, x0:x1], 0)
    corners = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]], float).T
    back = np.linalg.inv(np.vstack([view.matrix, [0, 0, 1]]))
    x, y = (back @ corners)[:2]
    return Mark(ink, (float(x.min()), float(y.min()), float(x.max()), float(y.max())), ("", *SEPARATORS)[spot.kind])
