"""Finds the marks on a picture: which pixels are whose ink, what kind of mark it is, and on which line it stands."""

import math
import os
from collections.abc import Callable, Sequence
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
MARGIN = 16  # pixels around the picture, for marks that touch its edge
READ_AT = 52  # pixels of a mark's height for the second look
GOOD = (26, 110)  # heights for which no second look is needed
LEVEL = 5.0  # degrees: lines that are turned by more are turned back for the second look
MOST = 900_000  # pixels of the second look

INK = 0.4  # probability from which a pixel is ink
EDGE = 0.12  # and at which the soft edge of a stroke ends
MIDDLE = 0.25  # and a cell the middle of a mark
SURE = 0.6  # probability of ink that a mark has at least on average
APART = (0.12, 0.4)  # of a mark's size: middles closer than this, across and down, are of one mark
CLOSE = 0.25  # of the height: middles beside each other that are closer are more likely of one mark
TOUCHING = 0.12  # of the height: pieces with more between them are of two marks
WIDEST = 1.6  # heights that a mark is wide at most
MOST_PIECES = 3  # that a mark can be in
SIGN_WITHIN = 1.0  # sizes of a character: a sign further away from it belongs to none
TINY = 0.33  # of the usual size: a smaller mark that is no separator is dirt


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


Judge = Callable[[Sequence[Mark]], np.ndarray]


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
    """A mark in a view, or a piece of one: its pixels' rows and columns, its kind, and where its middle is."""

    rows: np.ndarray
    columns: np.ndarray
    kind: int
    sine: float
    at: tuple[float, float]
    box: tuple[int, int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        left, top = int(self.columns.min()), int(self.rows.min())
        self.box = left, top, int(self.columns.max()) + 1, int(self.rows.max()) + 1

    def __or__(self, other: "_Spot") -> "_Spot":
        share = len(self.rows) / (len(self.rows) + len(other.rows))
        at = share * self.at[0] + (1 - share) * other.at[0], share * self.at[1] + (1 - share) * other.at[1]
        rows, columns = np.concatenate([self.rows, other.rows]), np.concatenate([self.columns, other.columns])
        return _Spot(rows, columns, self.kind, self.sine, at)

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


def find_marks(picture: Image.Image, judge: Judge | None = None) -> list[Mark]:
    """Finds the marks on a picture, line by line from top to bottom, each from left to right.

    The network looks twice: at the whole picture, and then at the part that has marks on it, turned upright and scaled
    such that they have the size that it sees best.

    Args:
        picture: in mode L or RGB.
        judge: tells of marks how likely each is a whole one, from 0 to 1: (N,). Where marks touch, it decides which
            pieces belong together.
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
    lines = [kept for line in _lines(_plausible(spots)) if (kept := _with_their_signs(line))]
    lines = _judged(view, lines, judge) if judge else [_joined_where_close(line) for line in lines]
    return [replace(_mark(view, spot), line=number) for number, line in enumerate(lines) for spot in line]


def _near(a: _Spot, b: _Spot) -> float | None:
    """How far the middles of two marks beside each other are apart, in heights; None: they do not touch."""
    tall = max(a.box[3], b.box[3]) - min(a.box[1], b.box[1])
    wide = max(a.box[2], b.box[2]) - min(a.box[0], b.box[0])
    if a.kind or b.kind or b.box[0] - a.box[2] > TOUCHING * tall or wide > WIDEST * tall:
        return None
    return abs(a.at[0] - b.at[0]) / tall


def _joined_where_close(line: list[_Spot]) -> list[_Spot]:
    joined = line[:1]
    for spot in line[1:]:
        away = _near(joined[-1], spot)
        if away is not None and away < CLOSE:
            joined[-1] = joined[-1] | spot
        else:
            joined.append(spot)
    return joined


def _judged(view: _View, lines: list[list[_Spot]], judge: Judge) -> list[list[_Spot]]:
    """Joins neighbours where the judge takes them for one mark rather than for two or three."""
    groups: dict[tuple[int, int, int], tuple[_Spot, float]] = {}  # by line, first piece and length
    for number, line in enumerate(lines):
        for i in range(len(line)):
            spot, prior = line[i], 0.0
            groups[number, i, 1] = spot, prior
            for j in range(i + 1, min(len(line), i + MOST_PIECES)):
                away = _near(line[j - 1], line[j])
                if away is None or (len(line) == 1):
                    break
                spot, prior = spot | line[j], prior + float(np.clip(4 * (CLOSE - away), -0.5, 0.5))
                groups[number, i, j - i + 1] = spot, prior
    doubtful = {key[:2] for key in groups if key[2] > 1}
    if not doubtful:
        return lines
    keys = list(groups)
    quality = np.log(np.clip(judge([_mark(view, groups[key][0]) for key in keys]), 1e-3, 1))
    scores = {
        key: (value + groups[key][1]) * len(groups[key][0].rows) for key, value in zip(keys, quality, strict=True)
    }
    return [_best(number, len(line), groups, scores) for number, line in enumerate(lines)]


def _best(number: int, length: int, groups: dict, scores: dict) -> list[_Spot]:
    """The way to divide a line's pieces into marks with the highest score: Viterbi."""
    best: list[tuple[float, list[_Spot]]] = [(0.0, [])]
    for end in range(1, length + 1):
        ways = [
            (best[end - size][0] + scores[key], [*best[end - size][1], groups[key][0]])
            for size in range(1, min(MOST_PIECES, end) + 1)
            if (key := (number, end - size, size)) in groups
        ]
        best.append(max(ways, key=lambda way: way[0]))
    return best[-1][1]


def _glance(pixels: np.ndarray) -> tuple[_View, list[_Spot]]:
    """The whole picture, at the scale at which the network is the surest of what it sees."""
    height, width = pixels.shape[:2]
    scale = min(math.sqrt(GLANCE / (height * width)), max(1.0, SMALL / max(height, width)))
    seen = [_at_scale(pixels, scale * factor) for factor in (1, 0.4)]
    if not any(spots for _, spots in seen) and scale < 1:
        seen.append(_at_scale(pixels, min(1.0, 2 * scale)))
    return max(seen, key=lambda one: sum(_evidence(one[0], spot) for spot in one[1]))


def _at_scale(pixels: np.ndarray, scale: float) -> tuple[_View, list[_Spot]]:
    height, width = pixels.shape[:2]
    place = np.array([[scale, 0, MARGIN], [0, scale, MARGIN]])
    view = _look(pixels, place, (round(width * scale) + 2 * MARGIN, round(height * scale) + 2 * MARGIN))
    return view, _spots(view)


def _evidence(view: _View, spot: _Spot) -> float:
    """How much ink a mark surely has, in pixels of the picture."""
    ink = view.ink[spot.rows, spot.columns]
    return float((ink - 0.5).clip(0).sum() / abs(np.linalg.det(view.matrix[:, :2])))


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
    cell = rows // CELL, columns // CELL
    points = np.stack([columns + view.offset[0][cell], rows + view.offset[1][cell]], axis=1)
    places = peaks[:, ::-1] * CELL + (CELL - 1) / 2
    own = _nearest(points, places)
    strength = np.bincount(own, minlength=len(peaks))
    kept = strength > 3
    if not kept.all() and kept.any():
        peaks, places = peaks[kept], places[kept]
        own = _nearest(points, places)
    own = _merged(own, places, rows, columns)
    spots = []
    for number in np.unique(own):
        mine = own == number
        where = cell[0][mine], cell[1][mine]
        if len(where[0]) < 4 or view.ink[rows[mine], columns[mine]].mean() < SURE:
            continue
        kinds = view.kinds[:, where[0], where[1]].mean(axis=1)
        middle = points[mine].mean(axis=0)
        at = float(middle[0]), float(middle[1])
        spots.append(_Spot(rows[mine], columns[mine], int(kinds.argmax()), float(np.median(view.sine[where])), at))
    return spots


def _merged(own: np.ndarray, places: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Merges marks whose middles are closer to each other than those of two digits can be."""
    own = own.copy()
    boxes = {int(n): _extent(rows[own == n], columns[own == n]) for n in np.unique(own)}
    pairs = [(a, b) for a in boxes for b in boxes if a < b]
    pairs.sort(key=lambda pair: float(np.abs(places[pair[0]] - places[pair[1]]).sum()))
    names = {n: n for n in boxes}
    for a, b in pairs:
        first, second = names[a], names[b]
        if first == second:
            continue
        box = np.concatenate(
            [np.minimum(boxes[first][:2], boxes[second][:2]), np.maximum(boxes[first][2:], boxes[second][2:])]
        )
        tall = max(box[3] - box[1], box[2] - box[0])
        across, down = np.abs(places[a] - places[b]) / tall
        if (across / APART[0]) ** 2 + (down / APART[1]) ** 2 < 1:
            names = {n: first if name == second else name for n, name in names.items()}
            boxes[first] = box
    return np.array([names.get(n, n) for n in range(int(own.max()) + 1)])[own]


def _extent(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def _nearest(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    return cKDTree(places).query(points)[1]


def _plausible(spots: list[_Spot]) -> list[_Spot]:
    """Without what is much smaller than the rest and no separator."""
    sizes = [spot.size for spot in spots if not spot.kind]
    usual = float(np.quantile(sizes, 0.75)) if sizes else 0
    return [spot for spot in spots if spot.kind or spot.size > TINY * usual]


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


def _with_their_signs(line: list[_Spot]) -> list[_Spot]:
    """Without signs that stand beside nothing: dots of a dotted paper."""
    characters = [spot for spot in line if not spot.kind]
    reach = SIGN_WITHIN * max((spot.size for spot in characters), default=0)
    return [
        spot
        for spot in line
        if not spot.kind
        or any(max(other.box[0] - spot.box[2], spot.box[0] - other.box[2]) < reach for other in characters)
    ]


def _mark(view: _View, spot: _Spot) -> Mark:
    """Cuts a mark out, with the soft edges of its strokes, without what belongs to others."""
    import cv2

    left, top, right, bottom = spot.box
    x0, y0 = max(0, left - 2), max(0, top - 2)
    window = view.ink[y0 : bottom + 2, x0 : right + 2]
    own = np.zeros(window.shape, np.uint8)
    own[spot.rows - y0, spot.columns - x0] = 1
    near = cv2.dilate(own, np.ones((5, 5), np.uint8)) > 0
    ink = np.where((own > 0) | (near & (window <= INK)), window, 0)
    rows, columns = (np.flatnonzero((ink > EDGE).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    corners = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]], float).T
    x, y = (np.linalg.inv(np.vstack([view.matrix, [0, 0, 1]])) @ corners)[:2]
    return Mark(ink, (float(x.min()), float(y.min()), float(x.max()), float(y.max())), ("", *SEPARATORS)[spot.kind])
