"""Finds the marks on a picture: characters and the signs between them, line by line."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from digits.pictures.ink import INK, SEPARATORS, Piece, View, look, pieces_of

# The first look, at the whole picture
GLANCE = 200_000  # pixels
SMALL = 256  # pixels of the longer side, which a smaller picture is enlarged to
MARGIN = 48  # pixels around the picture, for marks that touch its edge
SCALES = (1, 0.4)  # of large characters the network sees the smaller scale better
# The second look, at what has marks on it
READ_AT = 52  # pixels of a mark
LEVEL = 5.0  # degrees: lines that are turned by more are turned back
MOST = 900_000  # pixels
SEEN_ONCE = 20  # pixels of sure ink of a mark that the second look does not see; less is noise
PREFERRED = 0.1  # how much better the first look has to be, to be taken in place of the second
# Of a mark's size
TINY = 0.33  # a smaller character beside others is dirt
SIGN_WITHIN = 1.0  # a sign further away from any character belongs to none
PATTERN = 4  # signs that stand beside nothing: they are the paper's, such as its dots
POINTS = tuple(SEPARATORS.index(sign) + 1 for sign in ".,")
# The size of a sign, at least and at most, of the usual one of its line's characters: a smaller one is dirt, and a
# larger one no sign.
SIGN_SIZES = {
    SEPARATORS.index(sign) + 1: sizes
    for sign, sizes in {".": (0, 0.4), "-": (0.25, math.inf), "+": (0, 0.85), ":": (0.3, math.inf)}.items()
}
# Of a mark's height
TOUCHING = 0.12  # pieces with more between them are of two marks
BESIDE = 0.5  # pieces whose middles are further apart, down, stand on two lines
SIGN_BESIDE = 0.8  # but for signs: a full stop stands at the foot of its line
CLOSE = 0.25  # pieces whose middles are closer, across, are rather of one mark
WIDEST = 1.6  # a mark
MOST_PIECES = 3  # that a mark can be in
SAME = 0.5  # overlap of the boxes of one mark in two looks
MISSED = 0.3  # weight of ink that a look left out, against how likely its marks are

EDGE = 0.12  # of the ink: where the soft edge of a stroke ends


@dataclass(frozen=True)
class Mark:
    """A mark that was found.

    Args:
        ink: how much of a pixel it covers, from 0 to 1, of shape (h, w): the mark alone, upright, without a margin.
        box: where in the picture it is: left, top, right, bottom, in pixels; the last two are just outside.
        separator: the sign that it is, such as a decimal point; empty: a character, or anything else.
        line: that it stands on, from 0, from top to bottom.
        clearness: the mean probability of its ink, from 0 to 1.
        again: its ink as the network saw it when it looked another time; None: it did not, or saw no such mark.
    """

    ink: np.ndarray
    box: tuple[float, float, float, float]
    separator: str = ""
    line: int = 0
    clearness: float = 1.0
    again: np.ndarray | None = None


# Tells of marks how likely each is one, from 0 to 1: (N,).
Judge = Callable[[Sequence[Mark]], np.ndarray]


def find_marks(picture: Image.Image, judge: Judge | None = None) -> list[Mark]:
    """Finds the marks on a picture, line by line from top to bottom, each from left to right.

    The network looks twice: at the whole picture, and at the part that has marks on it, turned upright and scaled such
    that they have the size that it sees best.

    Args:
        picture: in mode L or RGB.
        judge: where marks touch, it decides which pieces belong together, and between the two looks.
    """
    pixels = np.asarray(picture.convert("RGB"))
    first, pieces = _glance(pixels)
    if not pieces:
        return []
    second = _second_look(pixels, first, pieces)
    again = pieces_of(second)
    if not again:
        pieces = [piece for piece in pieces if piece.evidence >= SEEN_ONCE]
    looks = [(view, found) for view, found in ((second, again), (first, pieces)) if found]
    if not looks:
        return []
    if judge is None:
        view, pieces = looks[0]
        return _marks(view, [_joined_where_close(line) for line in _lines(pieces)])
    evidence = [sum(piece.evidence for piece in found) for _, found in looks]
    divided = [_judged(view, _lines(found), judge) for view, found in looks]
    readings = [_marks(view, lines) for (view, _), lines in zip(looks, divided, strict=True)]
    scores = [
        _score(marks, [piece for line in lines for piece in line], judge, share / max(*evidence, 1e-6))
        for marks, lines, share in zip(readings, divided, evidence, strict=True)
    ]
    if len(scores) > 1:
        scores[0] += PREFERRED
    best = int(np.argmax(scores))
    others = [mark for i, reading in enumerate(readings) if i != best for mark in reading]
    return [replace(mark, again=_same(mark, others)) for mark in readings[best]]


def _same(mark: Mark, others: Sequence[Mark]) -> np.ndarray | None:
    """The ink of the mark that another look saw at the same place."""
    overlaps = [_overlap(mark.box, other.box) for other in others]
    best = int(np.argmax(overlaps)) if overlaps else -1
    return others[best].ink if overlaps and overlaps[best] > SAME else None


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection of two boxes over their union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _score(marks: Sequence[Mark], pieces: Sequence[Piece], judge: Judge, share: float) -> float:
    """How good a reading is whose marks are these pieces, and that sees this share of the ink."""
    characters = [i for i, mark in enumerate(marks) if not mark.separator]
    if not characters:
        return -math.inf
    weights = np.array([pieces[i].evidence for i in characters]) + 1e-6
    quality = _log_quality([marks[i] for i in characters], judge)
    return float((quality * weights).sum() / weights.sum()) + MISSED * math.log(max(share, 1e-6))


def _log_quality(marks: Sequence[Mark], judge: Judge) -> np.ndarray:
    return np.log(np.clip(judge(marks), 1e-3, 1))


def _glance(pixels: np.ndarray) -> tuple[View, list[Piece]]:
    """The whole picture, at the scale at which the network is the surest of what it sees."""
    height, width = pixels.shape[:2]
    scale = min(math.sqrt(GLANCE / (height * width)), max(1.0, SMALL / max(height, width)))

    def at_scale(scale: float) -> tuple[View, list[Piece]]:
        matrix = np.array([[scale, 0, MARGIN], [0, scale, MARGIN]])
        view = look(pixels, matrix, width * scale + 2 * MARGIN, height * scale + 2 * MARGIN)
        return view, pieces_of(view)

    seen = [at_scale(scale * factor) for factor in SCALES]
    if scale < 1 and not any(pieces for _, pieces in seen):
        seen.append(at_scale(min(1.0, 2 * scale)))
    return max(seen, key=lambda one: sum(piece.evidence for piece in one[1]))


def _second_look(pixels: np.ndarray, view: View, pieces: Sequence[Piece]) -> View:
    """Where the pieces are, at the size for reading, and upright."""
    characters = [piece for piece in pieces if not piece.kind] or pieces
    size = float(np.median([piece.size for piece in characters]))
    turn = -math.asin(float(np.clip(np.median([piece.sine for piece in characters]), -1, 1)))
    if abs(turn) < math.radians(LEVEL):
        turn = 0.0
    rotation = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    boxes = np.array([piece.box for piece in pieces], float)
    middles = rotation[:2, :2] @ ((boxes[:, :2] + boxes[:, 2:]) / 2).T  # (2, N)
    reach = 1.2 * size + 4 + (boxes[:, 2:] - boxes[:, :2]).max() * (0.75 if turn else 0.5)
    low, high = middles.min(axis=1) - reach, middles.max(axis=1) + reach
    zoom = min(READ_AT / size, math.sqrt(MOST / float(np.prod(high - low))))
    place = np.array([[zoom, 0, -zoom * low[0]], [0, zoom, -zoom * low[1]]])
    return look(pixels, place @ rotation @ np.vstack([view.matrix, [0, 0, 1]]), *(zoom * (high - low)))


# From pieces to marks


def _lines(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Sorts pieces into lines, without dirt: a piece belongs to the line beside whose nearest piece it stands."""
    usual = max((piece.evidence, piece.size) for piece in pieces)[1] if pieces else 0
    lines: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: -piece.height):
        if not piece.kind and piece.size < TINY * usual:
            continue
        best, least = None, SIGN_BESIDE if piece.kind else BESIDE
        for line in lines:
            near = min(line, key=lambda other: abs(other.box[0] - piece.box[0]))
            away = abs(_centre(piece) - _centre(near)) / max(near.height, piece.height)
            if away < least:
                best, least = line, away
        if best is None:
            lines.append([piece])
        else:
            best.append(piece)
    for line in lines:
        line.sort(key=lambda piece: piece.box[0] + piece.box[2])
    lines.sort(key=lambda line: float(np.median([_centre(piece) for piece in line])))
    kept = [_without_ends(_with_their_signs(line)) for line in lines]
    if sum(map(len, lines)) - sum(map(len, kept)) >= PATTERN:  # so that those beside a character belong to it as well
        kept = [[piece for piece in line if not piece.kind] for line in kept]
    return [line for line in kept if line]


def _centre(piece: Piece) -> float:
    return (piece.box[1] + piece.box[3]) / 2


def _with_their_signs(line: list[Piece]) -> list[Piece]:
    """Without signs that stand beside nothing, as the dots of dotted paper, and without what is too small for one."""
    characters = [piece for piece in line if not piece.kind]
    if not characters:
        return []
    sizes = [piece.size for piece in characters]
    usual, reach = float(np.median(sizes)), SIGN_WITHIN * max(sizes)
    kept = []
    for piece in line:
        least, most = SIGN_SIZES.get(piece.kind, (0, math.inf))
        if piece.kind and piece.size > most * usual:
            kept.append(replace(piece, kind=0))
        elif not piece.kind or (
            piece.size >= least * usual and any(_gap(piece, other) < reach for other in characters)
        ):
            kept.append(piece)
    return kept


def _without_ends(line: list[Piece]) -> list[Piece]:
    """Without points and commas before the first character and after the last: between two, they separate."""
    inner = [i for i, piece in enumerate(line) if piece.kind not in POINTS]
    return line[inner[0] : inner[-1] + 1] if inner else []


def _gap(a: Piece, b: Piece) -> int:
    """Between two pieces, across, in pixels; less than 0 where they overlap."""
    return max(a.box[0] - b.box[2], b.box[0] - a.box[2])


def _distance(a: Piece, b: Piece) -> float | None:
    """Between the middles of neighbours that can be one mark, across, in heights; None: they cannot."""
    tall = max(a.box[3], b.box[3]) - min(a.box[1], b.box[1])
    wide = max(a.box[2], b.box[2]) - min(a.box[0], b.box[0])
    if a.kind or b.kind or _gap(a, b) > TOUCHING * tall or wide > WIDEST * tall:
        return None
    return abs(a.middle[0] - b.middle[0]) / tall


def _joined_where_close(line: list[Piece]) -> list[Piece]:
    joined = line[:1]
    for piece in line[1:]:
        distance = _distance(joined[-1], piece)
        if distance is not None and distance < CLOSE:
            joined[-1] = joined[-1] | piece
        else:
            joined.append(piece)
    return joined


def _judged(view: View, lines: list[list[Piece]], judge: Judge) -> list[list[Piece]]:
    """Joins neighbours where the judge takes them for one mark rather than for two or three."""
    groups: dict[tuple[int, int, int], tuple[Piece, float]] = {}  # by line, first piece and number of pieces
    for number, line in enumerate(lines):
        for i, piece in enumerate(line):
            group, prior = piece, 0.0
            groups[number, i, 1] = group, prior
            for j in range(i + 1, min(len(line), i + MOST_PIECES)):
                distance = _distance(line[j - 1], line[j])
                if distance is None:
                    break
                group, prior = group | line[j], prior + float(np.clip(4 * (CLOSE - distance), -0.5, 0.5))
                groups[number, i, j - i + 1] = group, prior
    if all(size == 1 for _, _, size in groups):
        return lines
    quality = _log_quality([_mark(view, group) for group, _ in groups.values()], judge)
    scores = {
        key: (float(value) + prior) * len(group.rows)
        for (key, (group, prior)), value in zip(groups.items(), quality, strict=True)
    }
    divided = []
    for number, line in enumerate(lines):  # the way to divide it with the highest score: Viterbi's algorithm
        best: list[tuple[float, list[Piece]]] = [(0.0, [])]
        for end in range(1, len(line) + 1):
            keys = [(number, end - size, size) for size in range(1, min(MOST_PIECES, end) + 1)]
            ways = [
                (best[key[1]][0] + scores[key], [*best[key[1]][1], groups[key][0]]) for key in keys if key in groups
            ]
            best.append(max(ways, key=lambda way: way[0]))
        divided.append(best[-1][1])
    return divided


def _marks(view: View, lines: Sequence[Sequence[Piece]]) -> list[Mark]:
    return [replace(_mark(view, piece), line=number) for number, line in enumerate(lines) for piece in line]


def _mark(view: View, piece: Piece) -> Mark:
    """Cuts a mark out, with the soft edges of its strokes, without what belongs to others."""
    left, top, right, bottom = piece.box
    x0, y0 = max(0, left - 2), max(0, top - 2)
    window = view.ink[y0 : bottom + 2, x0 : right + 2]
    own = np.zeros(window.shape, np.uint8)
    own[piece.rows - y0, piece.columns - x0] = 1
    near = cv2.dilate(own, np.ones((5, 5), np.uint8)) > 0
    ink = np.where((own > 0) | (near & (window <= INK)), window, 0)
    rows, columns = (np.flatnonzero((ink > EDGE).any(axis=axis)) for axis in (1, 0))
    corners = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]]).T
    x, y = view.to_picture @ corners
    return Mark(
        ink=ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1],
        box=(float(x.min()), float(y.min()), float(x.max()), float(y.max())),
        separator=("", *SEPARATORS)[piece.kind],
        clearness=float(view.ink[piece.rows, piece.columns].mean()),
    )
