"""What the ink network sees in a picture: ink, and the pieces that it is divided into."""

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import onnxruntime

NETWORK = Path(__file__).with_name("ink.onnx")  # python -m digits.ink.train writes it
SEPARATORS = ".,-/()[]+=:"  # in the order of the network's kinds
CELL, OFFSET_UNIT, MULTIPLE = 4, 32, 32  # as of digits.ink.network

INK = 0.4  # probability from which a pixel is ink
INK_OF_SIGN = 0.2  # and of a sign, which may be a mere dot
MIDDLE = 0.25  # and a cell the middle of a mark
SURE = 0.6  # probability of ink that a piece has at least on average
SURE_SIGN = 0.25  # and a sign
RARE = np.array(
    [0.15 if sign in "/()[]," else 1.0 for sign in f" {SEPARATORS}"]
)  # a bar is rather a 1, a comma a point
FEWEST = 4  # pixels of a piece
WIDE_OF, WIDE_BY = 6, 0.35  # pixels, and of its offset: by how much a pixel may miss the middle that it points at
SMALLEST = 8  # pixels of connected ink that points at no middle
CLEAR = 0.75  # and its mean probability, to be a piece
MOST_APART = 120  # pixels
APART = (0.12, 0.4)  # of a mark's size: middles closer than this, across and down, are of one mark


@dataclass(frozen=True)
class View:
    """A part of a picture as the network is shown it, and what it said.

    Args:
        matrix: from the picture to the view: (2, 3).
        ink: (H, W), from 0 to 1.
        middle: (H/4, W/4), from 0 to 1.
        offset: of the middle from each cell, across and down, in pixels: (2, H/4, W/4).
        sine: of the angle of the lines: (H/4, W/4).
        kinds: probabilities: (kinds, H/4, W/4).
    """

    matrix: np.ndarray
    ink: np.ndarray
    middle: np.ndarray
    offset: np.ndarray
    sine: np.ndarray
    kinds: np.ndarray

    @property
    def to_picture(self) -> np.ndarray:
        """Matrix (2, 3) from the view to the picture."""
        return cv2.invertAffineTransform(self.matrix)


@dataclass
class Piece:
    """A mark in a view, or a part of one.

    Args:
        rows, columns: of its pixels: (N,).
        kind: 0: a character or anything else; from 1: the separator of that number.
        sine: of the angle of its line.
        middle: where its pixels point at, across and down.
        evidence: how much ink it surely has, in pixels of the picture.
    """

    rows: np.ndarray
    columns: np.ndarray
    kind: int
    sine: float
    middle: tuple[float, float]
    evidence: float
    box: tuple[int, int, int, int] = field(init=False)  # left, top, right, bottom, in pixels of the view

    def __post_init__(self) -> None:
        left, top = int(self.columns.min()), int(self.rows.min())
        self.box = left, top, int(self.columns.max()) + 1, int(self.rows.max()) + 1

    def __or__(self, other: "Piece") -> "Piece":
        share = len(self.rows) / (len(self.rows) + len(other.rows))
        x, y = (share * a + (1 - share) * b for a, b in zip(self.middle, other.middle, strict=True))
        rows, columns = np.concatenate([self.rows, other.rows]), np.concatenate([self.columns, other.columns])
        return Piece(rows, columns, self.kind, self.sine, (x, y), self.evidence + other.evidence)

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]

    @property
    def size(self) -> int:
        return max(self.height, self.box[2] - self.box[0])


@cache
def _network() -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # beside busy processes, it costs more
    return onnxruntime.InferenceSession(NETWORK.read_bytes(), options, providers=["CPUExecutionProvider"])


def look(pixels: np.ndarray, matrix: np.ndarray, width: float, height: float) -> View:
    """Shows the network a part of a picture.

    Args:
        pixels: uint8 (H, W, 3).
        matrix: from the picture to what is shown: (2, 3). Beyond the picture, its edge is repeated.
        width, height: of what is shown, in pixels; more is shown, up to a size that the network can take.
    """
    sides = [max(2 * MULTIPLE, MULTIPLE * math.ceil(side / MULTIPLE)) for side in (width, height)]
    scale, inner = math.sqrt(abs(np.linalg.det(matrix[:, :2]))), matrix.copy()
    if scale < 0.7:  # warping alone would leave out pixels
        full = np.array(pixels.shape[1::-1])
        smaller = np.maximum(1, (full * scale).round().astype(int))
        pixels = cv2.resize(pixels, smaller.tolist(), interpolation=cv2.INTER_AREA)
        inner[:, :2] *= full / smaller
    how = cv2.INTER_LINEAR if scale < 1.5 else cv2.INTER_CUBIC
    shown = cv2.warpAffine(pixels, inner, sides, flags=how, borderMode=cv2.BORDER_REPLICATE)
    [ink], [cells] = _network().run(None, {"pixels": np.ascontiguousarray(shown.transpose(2, 0, 1))[None]})
    return View(matrix, ink, cells[0], cells[1:3] * OFFSET_UNIT, cells[3], cells[4:])


def pieces_of(view: View) -> list[Piece]:
    """Divides the ink of a view: each pixel belongs to the middle that it points at."""
    highest = cv2.dilate(view.middle, np.ones((3, 3), np.uint8))
    peaks = np.argwhere((view.middle >= highest) & (view.middle > MIDDLE))
    least = np.where(view.kinds[0] < 0.5, np.float32(INK_OF_SIGN), np.float32(INK))  # of each cell
    rows, columns = np.nonzero(view.ink > least.repeat(CELL, axis=0).repeat(CELL, axis=1))
    if not len(peaks) or not len(rows):
        return []
    cell = rows // CELL, columns // CELL
    points = np.stack([columns + view.offset[0][cell], rows + view.offset[1][cell]], axis=1)
    middles = peaks[:, ::-1] * CELL + (CELL - 1) / 2
    own, away = _nearest(points, middles)
    # Ink that points at no middle is noise, or of a mark whose middle was missed.
    near = away <= WIDE_OF + WIDE_BY * np.hypot(view.offset[0][cell], view.offset[1][cell])
    own = np.where(near, own, _components(view.ink, rows[~near], columns[~near], len(middles), near))
    there = np.unique(own[own >= 0])
    if not len(there):
        return []
    middles = np.stack([points[own == number].mean(axis=0) for number in there])
    own = np.where(own >= 0, np.searchsorted(there, own), -1)
    own = np.where(own >= 0, _joined(own, middles, rows, columns)[own], -1)
    area = abs(float(np.linalg.det(view.matrix[:, :2])))
    pieces = []
    for number in np.unique(own[own >= 0]):
        mine = own == number
        ink, where = view.ink[rows[mine], columns[mine]], (cell[0][mine], cell[1][mine])
        kind = int((view.kinds[:, where[0], where[1]].mean(axis=1) * RARE).argmax())
        if len(ink) < FEWEST or ink.mean() < (SURE_SIGN if kind else SURE):
            continue
        x, y = points[mine].mean(axis=0).tolist()
        sine, evidence = float(np.median(view.sine[where])), float((ink - 0.5).clip(0).sum()) / area
        pieces.append(Piece(rows[mine], columns[mine], kind, sine, (x, y), evidence))
    return pieces


def _components(ink: np.ndarray, rows: np.ndarray, columns: np.ndarray, first: int, near: np.ndarray) -> np.ndarray:
    """Numbers connected ink that points at no middle, from `first` on: as `near`, (N,); -1: faint or small."""
    mask = np.zeros(ink.shape, np.uint8)
    mask[rows, columns] = 1
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    number = np.full(count, -1)
    for i in range(1, count):
        size = max(stats[i, cv2.CC_STAT_WIDTH], stats[i, cv2.CC_STAT_HEIGHT])
        if size >= SMALLEST and ink[labels == i].mean() >= CLEAR:
            number[i] = first + i
    found = np.full(len(near), -1)
    found[~near] = number[labels[rows, columns]]
    return found


def _nearest(points: np.ndarray, middles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle nearest to each point, and how far away it is: of (N, 2) and (M, 2), twice (N,)."""
    from scipy.spatial import cKDTree

    away, number = cKDTree(middles).query(points)
    return number, away


def _joined(own: np.ndarray, middles: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Makes one of pieces whose middles are closer to each other than those of two marks can be.

    Args:
        own: each pixel's piece, from 0; -1: none: (N,).
        middles: of the pieces: (M, 2).
        rows, columns: of the pixels: (N,).

    Returns:
        Each piece's new number: (M,).
    """
    boxes = []
    for number in range(len(middles)):
        x, y = columns[own == number], rows[own == number]
        boxes.append(np.array([x.min(), y.min(), x.max(), y.max()]))
    names = np.arange(len(middles))
    close = [(a, b) for a in names for b in names[a + 1 :] if np.abs(middles[a] - middles[b]).max() < MOST_APART]
    for a, b in sorted(close, key=lambda pair: float(np.abs(middles[pair[0]] - middles[pair[1]]).sum())):
        first, second = names[a], names[b]
        low = np.minimum(boxes[first], boxes[second])[:2]
        high = np.maximum(boxes[first], boxes[second])[2:]
        apart = np.abs(middles[a] - middles[b]) / (high - low + 1).max() / APART
        if first != second and (apart**2).sum() < 1:
            names[names == second] = first
            boxes[first] = np.concatenate([low, high])
    return names
