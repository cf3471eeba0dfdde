"""Photographs for the benchmark's pictures: papers and boards, desks, light and shadows, the camera.

A picture is float32 of shape (H, W, 3), RGB, reflectance or light from 0 to 1.
"""

import io
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image

from benchmarks.handwriting import clouds

PAPERS = {  # the share of each and its colour
    "white": (0.5, (0.95, 0.95, 0.94)),
    "cream": (0.15, (0.95, 0.92, 0.83)),
    "grey": (0.1, (0.80, 0.80, 0.79)),
    "recycled": (0.08, (0.82, 0.79, 0.72)),
    "yellow": (0.07, (0.96, 0.90, 0.45)),
    "pink": (0.04, (0.96, 0.76, 0.80)),
    "blue": (0.03, (0.72, 0.85, 0.95)),
    "kraft": (0.03, (0.70, 0.56, 0.40)),
}
# Photographs that come with scikit-image, without letters or digits in them.
PHOTOS = "astronaut.png chelsea.png coffee.png rocket.jpg hubble_deep_field.jpg retina.jpg ihc.png moon.png camera.png"
TEXTURES = "brick.png grass.png gravel.png"


@cache
def photo(name: str) -> np.ndarray:
    """A photograph that comes with scikit-image, at most 700 pixels wide."""
    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    image.thumbnail((700, 700))
    return np.asarray(image, np.float32) / 255


def paper(rng: np.random.Generator, shape: tuple[int, int], kind: str = "") -> np.ndarray:
    """An empty sheet: its colour, its fibres; sometimes folds, stains or the other side's writing faintly."""
    shares = np.array([share for share, _ in PAPERS.values()])
    kind = kind or str(rng.choice(list(PAPERS), p=shares / shares.sum()))
    sheet = np.empty((*shape, 3), np.float32)
    sheet[:] = np.array(PAPERS[kind][1]) * rng.uniform(0.94, 1.03) + rng.normal(0, 0.012, 3)
    rough = {"recycled": 0.03, "kraft": 0.03}.get(kind, 0.012) * rng.uniform(0, 1)
    sheet += rough * (0.6 * clouds(rng, shape, 1.5) + 0.6 * clouds(rng, shape, 9))[..., None]
    if rng.random() < 0.12:
        _folds(rng, sheet)
    if rng.random() < 0.06:
        _stain(rng, sheet)
    return sheet


def _folds(rng: np.random.Generator, sheet: np.ndarray) -> None:
    """Creases: one side of each is darker, and the line itself a little lighter or darker."""
    height, width = sheet.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(rng.integers(1, 3))):
        angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.04)
        across = (x - width * rng.uniform(0.2, 0.8)) * np.cos(angle) + (y - height * rng.uniform(0.2, 0.8)) * np.sin(
            angle
        )
        wide = 0.004 * max(height, width)
        sheet *= 1 - (rng.uniform(0.02, 0.07) * (across > 0) * np.exp(-np.abs(across) / (25 * wide)))[..., None]
        sheet *= 1 + (rng.uniform(-0.06, 0.04) * np.exp(-((across / wide) ** 2)))[..., None]


def _stain(rng: np.random.Generator, sheet: np.ndarray) -> None:
    """A cup's ring, brown and pale."""
    height, width = sheet.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    radius = rng.uniform(0.25, 0.5) * min(height, width)
    far = np.hypot(x - width * rng.uniform(0, 1), y - height * rng.uniform(0, 1)) - radius
    brown = 0.12 * np.exp(-((far / (0.05 * radius)) ** 2)) * (0.6 + 0.4 * clouds(rng, (height, width), radius / 2))
    sheet *= 1 - np.clip(brown, 0, 0.2)[..., None] * np.array([0.5, 0.8, 1.2], np.float32)


def rule(rng: np.random.Generator, sheet: np.ndarray, kind: str, digit: float) -> None:
    """Prints rules on a sheet, in a pattern that belongs to a digit's height.

    Args:
        rng: of its chances.
        sheet: to print on.
        kind: ruled, squared, dotted, graph (fine and strong lines) or primer (pairs of lines).
        digit: height in pixels of what is written on it.
    """
    height, width = sheet.shape[:2]
    pale = np.array([(0.55, 0.68, 0.85), (0.6, 0.6, 0.62), (0.45, 0.62, 0.6), (0.75, 0.55, 0.7), (0.3, 0.3, 0.35)])
    colour = pale[rng.choice(5, p=[0.4, 0.25, 0.15, 0.08, 0.12])] + rng.normal(0, 0.04, 3)
    step = max(9.0, digit * (rng.uniform(0.35, 1.1) if kind in ("squared", "dotted") else rng.uniform(0.9, 1.7)))
    step = max(7.0, digit * rng.uniform(0.12, 0.3)) if kind == "graph" else step
    thick = max(1.0, step * rng.uniform(0.012, 0.045))
    rows, columns = (np.arange(rng.uniform(0.1, 1) * step, end, step) for end in (height, width))
    strength = rng.uniform(0.45, 0.95) * (0.6 if kind == "graph" else 1)
    if kind == "dotted":
        ink = _dots(rows, columns, (height, width), max(1.2, 1.7 * thick))
    else:
        both = kind in ("squared", "graph")
        ink = np.maximum(_lines(rows, height, thick)[:, None], _lines(columns if both else [], width, thick)[None])
        if kind == "graph":
            strong = np.maximum(
                _lines(rows[::5], height, 2 * thick)[:, None], _lines(columns[::5], width, 2 * thick)[None]
            )
            ink = np.maximum(0.55 * ink, strong)
        if kind == "primer":
            ink = np.maximum(ink, 0.6 * _lines(rows + step * 0.45, height, thick)[:, None])
    ink = np.broadcast_to(ink, (height, width))[..., None] * strength
    sheet[:] = sheet * (1 - ink) + colour.astype(np.float32) * ink
    if kind in ("ruled", "squared") and rng.random() < 0.35:  # the margin
        margin = _lines([width * rng.choice([rng.uniform(0.06, 0.2), rng.uniform(0.8, 0.94)])], width, 1.3 * thick)
        margin = margin[None, :, None] * 0.7
        sheet[:] = sheet * (1 - margin) + np.array([0.85, 0.3, 0.35], np.float32) * margin
    if rng.random() < 0.12:
        _punch_holes(rng, sheet, digit)


def _lines(at: np.ndarray | list[float], length: int, thick: float) -> np.ndarray:
    """The ink of lines along one axis, (length,), with soft edges."""
    ink = np.zeros(length, np.float32)
    for middle in at:
        first, last = max(0, int(middle - thick - 1)), min(length, int(middle + thick + 3))
        pixels = np.arange(first, last) + 0.5
        ink[first:last] = np.maximum(ink[first:last], np.clip(thick / 2 + 0.5 - np.abs(pixels - middle), 0, 1))
    return ink


def _dots(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], radius: float) -> np.ndarray:
    ink = np.zeros(shape, np.uint8)
    for y in rows:
        for x in columns:
            cv2.circle(ink, (round(16 * x), round(16 * y)), round(16 * radius), 255, -1, cv2.LINE_AA, 4)
    return ink.astype(np.float32) / 255


def _punch_holes(rng: np.random.Generator, sheet: np.ndarray, digit: float) -> None:
    height = len(sheet)
    radius = max(4.0, rng.uniform(0.1, 0.22) * digit)
    x, dark = 2.2 * radius, rng.uniform(0.1, 0.5)
    for y in np.arange(height * 0.1, height, max(6 * radius, height / 9)):
        centre = (round(16 * x), round(16 * y))
        cv2.circle(sheet, centre, round(16 * radius), (dark, dark, dark), -1, cv2.LINE_AA, 4)


def board(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    """A chalkboard with wiped chalk, a whiteboard with wiped ink, or a dark paper."""
    plane = np.empty((*shape, 3), np.float32)
    if kind == "whiteboard":
        plane[:] = np.array([0.93, 0.94, 0.95]) * rng.uniform(0.85, 1.02)
        if rng.random() < 0.5:  # pale traces of what was wiped away
            wiped = np.clip(cv2.resize(clouds(rng, (shape[0] // 12 + 2, shape[1] // 40 + 2), 2), shape[::-1]), 0, 2)
            plane *= 1 - (0.025 * wiped)[..., None] * np.array([1.2, 1, 0.6], np.float32)
        return plane
    greens = [(0.09, 0.20, 0.15), (0.06, 0.12, 0.10), (0.12, 0.13, 0.14), (0.05, 0.05, 0.06), (0.10, 0.17, 0.27)]
    papers = [(0.07, 0.07, 0.08), (0.15, 0.12, 0.25), (0.30, 0.08, 0.10), (0.08, 0.15, 0.30), (0.25, 0.18, 0.12)]
    plane[:] = (greens if kind == "chalkboard" else papers)[int(rng.integers(5))]
    plane *= rng.uniform(0.9, 1.6)
    if kind == "chalkboard":
        wide = (max(2, shape[0] // int(rng.integers(2, 30))), max(2, shape[1] // int(rng.integers(20, 90))))
        dust = cv2.resize(clouds(rng, wide, 3), shape[::-1], interpolation=cv2.INTER_CUBIC)
        turned = dust if rng.random() < 0.7 else np.flip(dust, int(rng.integers(2)))
        plane += (rng.uniform(0.01, 0.045) * (turned + 0.4 * clouds(rng, shape, 2)))[..., None]
    else:
        plane += 0.012 * clouds(rng, shape, 1.5)[..., None]
    return np.clip(plane, 0.01, 1)


def desk(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """What a sheet may lie on: wood, cloth, stone, a plain plate, planks, or a photographed ground."""
    kind = rng.choice(["wood", "wood", "planks", "cloth", "stone", "plain", "checked", "photo"])
    colours = [(0.45, 0.29, 0.16), (0.62, 0.45, 0.28), (0.25, 0.15, 0.09), (0.75, 0.62, 0.45), (0.20, 0.22, 0.25)]
    colour = np.array(colours[int(rng.integers(5))], np.float32)
    upright = bool(rng.integers(2))  # the grain of the wood
    height, width = shape[::-1] if upright and kind in ("wood", "planks") else shape
    if kind in ("wood", "planks"):
        grain = clouds(rng, (max(4, height // 2), max(3, width // 60 + 2)), 2)
        grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
        waves = np.sin(grain * 2 + np.arange(height)[:, None] * rng.uniform(0.02, 0.2)) + 0.7 * grain
        ground = colour * (1 + rng.uniform(0.05, 0.16) * waves)[..., None]
        if kind == "planks":
            seams = np.arange(rng.uniform(0, 1), 6) * height / rng.uniform(3, 6)
            ground *= 1 - 0.7 * _lines(seams[seams < height], height, max(2.0, height / 200))[:, None, None]
        return np.clip(np.ascontiguousarray(ground.transpose(1, 0, 2)) if upright else ground, 0.01, 1)
    if kind == "photo":
        texture = photo(str(rng.choice(TEXTURES.split()))) * rng.uniform(0.5, 1.3) * rng.uniform(0.8, 1.2, 3)
        ground = cv2.resize(texture.astype(np.float32), (max(width, height),) * 2, interpolation=cv2.INTER_CUBIC)
        return np.clip(ground[:height, :width], 0.01, 1)
    colour = rng.uniform(0.06, 0.6, 3).astype(np.float32)
    ground = np.ones((height, width, 3), np.float32) * colour
    if kind == "cloth":
        y, x = np.mgrid[:height, :width]
        weave = np.sin(x * rng.uniform(0.8, 2)) * np.sin(y * rng.uniform(0.8, 2))
        ground *= 1 + (0.12 * weave + 0.12 * clouds(rng, shape, 2.5) + 0.06 * clouds(rng, shape, 40))[..., None]
    elif kind == "stone":
        ground *= 1 + (0.2 * clouds(rng, shape, 25) + 0.12 * clouds(rng, shape, 6))[..., None]
    elif kind == "checked":
        step = int(rng.uniform(0.04, 0.12) * max(shape)) + 2
        checks = (np.arange(height)[:, None] // step + np.arange(width)[None] // step) % 2
        ground *= (0.75 + 0.5 * checks)[..., None].astype(np.float32)
    else:
        ground *= 1 + 0.02 * clouds(rng, shape, 2)[..., None]
    return np.clip(ground, 0.01, 1)


def litter(rng: np.random.Generator, ground: np.ndarray) -> None:
    """Puts a pen, a cup, a cable or the corner of another sheet onto a desk, near its edges."""
    height, width = ground.shape[:2]
    kind, size = rng.choice(["pen", "cup", "cable", "sheet"]), 0.03 * max(height, width)
    colour = tuple(map(float, rng.uniform(0.03, 0.9, 3)))
    side = np.array([rng.uniform(0, width), rng.choice([0.05, 0.95]) * height])
    side = side if rng.random() < 0.5 else np.array([rng.choice([0.05, 0.95]) * width, rng.uniform(0, height)])
    x, y = map(int, side)
    if kind == "pen":
        angle, long = rng.uniform(0, np.pi), 0.3 * max(height, width)
        end = (int(x + long * np.cos(angle)), int(y + long * np.sin(angle)))
        cv2.line(ground, (x + 4, y + 5), (end[0] + 4, end[1] + 5), (0.05, 0.05, 0.05), int(0.5 * size), cv2.LINE_AA)
        cv2.line(ground, (x, y), end, colour, max(2, int(0.45 * size)), cv2.LINE_AA)
    elif kind == "cup":
        cv2.circle(ground, (x, y), int(5 * size), (0.92, 0.92, 0.9), -1, cv2.LINE_AA)
        cv2.circle(ground, (x, y), int(4.5 * size), (0.18, 0.1, 0.06), -1, cv2.LINE_AA)
    elif kind == "cable":
        way = np.cumsum(rng.normal(0, 2 * size, (30, 2)), axis=0) + side
        way = cv2.GaussianBlur(way, (1, 9), 3)
        cv2.polylines(ground, [way.astype(np.int32)], False, (0.04, 0.04, 0.05), max(2, int(0.2 * size)), cv2.LINE_AA)
    else:
        corners = side + rng.uniform(6, 11) * size * np.array([[-1, -1], [1, -1.1], [1.1, 1], [-0.9, 1]])
        cv2.fillConvexPoly(ground, corners.astype(np.int32), (0.85, 0.85, 0.83), cv2.LINE_AA)


def laid(
    rng: np.random.Generator, sheet: np.ndarray, ground: np.ndarray, turn: float, tilt: float, cut: float
) -> np.ndarray:
    """Lays a sheet onto a ground of the same shape or another, as a camera sees it from above and aslant.

    Args:
        rng: of its chances.
        sheet: the sheet.
        ground: the ground; its shape is the result's.
        turn: degrees by which the sheet is turned.
        tilt: how much its corners move by perspective, as a share of its size.
        cut: how far the sheet may reach beyond the picture, as a share of the picture's size.
    """
    height, width = ground.shape[:2]
    high, wide = sheet.shape[:2]
    corners = np.array([[-wide, -high], [wide, -high], [wide, high], [-wide, high]], float) / 2
    angle = np.radians(turn)
    corners = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners *= 1 + rng.uniform(-tilt, tilt, (4, 2))
    room = np.array([width, height]) * (1 + 2 * cut) / (corners.max(0) - corners.min(0))
    corners *= room.min() * rng.uniform(0.68, 0.97)
    low, high_ = -corners.min(0), np.array([width, height]) - corners.max(0)
    centre = np.array([rng.uniform(*sorted(pair)) for pair in zip(low, high_, strict=True)])
    target = (corners + centre).astype(np.float32)
    source = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    shrink = np.sqrt(cv2.contourArea(target) / (wide * high))
    if shrink < 0.7:
        sheet = cv2.GaussianBlur(sheet, (0, 0), 0.4 / shrink)
    moved = cv2.warpPerspective(sheet, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros((height, width), np.float32)
    cv2.fillConvexPoly(mask, np.round(target * 16).astype(np.int32), 1, cv2.LINE_AA, 4)
    size = 0.01 * max(height, width)
    drop = cv2.GaussianBlur(mask, (0, 0), size * rng.uniform(0.2, 1.2))
    drop = np.roll(drop, tuple((rng.uniform(-1, 1, 2) * size).astype(int)), (0, 1))
    ground = ground * (1 - rng.uniform(0.2, 0.6) * drop)[..., None]
    return ground * (1 - mask[..., None]) + moved * mask[..., None]


def light(rng: np.random.Generator, shape: tuple[int, int], strength: float = 1.0) -> np.ndarray:
    """The light on a scene (H, W, 1): a slope, a lamp, a vignette; 1 at most."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x / width - 0.5, y / height - 0.5
    angle, slope = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0, 0.35)
    bright = 1 + slope * (x * np.cos(angle) + y * np.sin(angle)) * 2
    if rng.random() < 0.4:
        far = np.hypot(x - rng.uniform(-0.6, 0.6), y - rng.uniform(-0.6, 0.6))
        bright *= 1 - strength * rng.uniform(0.2, 0.6) * np.clip(far, 0, 1.2)
    if rng.random() < 0.4:
        bright *= 1 - strength * rng.uniform(0.1, 0.7) * (x**2 + y**2)
    return np.clip(bright / bright.max(), 0.35, 1)[..., None]


def shadow(rng: np.random.Generator, shape: tuple[int, int], kind: str = "") -> np.ndarray:
    """A shadow's light (H, W, 1), 1 at most: an edge, a corner, a phone, a hand, a fingertip, a blind's stripes."""
    height, width = shape
    kind = kind or str(rng.choice(["edge", "edge", "corner", "phone", "hand", "blind", "tip"]))
    mask = _silhouette(rng, shape, kind)
    soft = rng.choice([0.0015, 0.004, 0.012, 0.04]) * max(shape) * rng.uniform(0.7, 1.5)
    # A wide blur of a small picture is as smooth, and quick.
    small = max(1, int(soft / 4))
    mask = cv2.resize(mask, (max(2, width // small), max(2, height // small)), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), soft / small), (width, height)) / 255
    return 1 - rng.uniform(0.2, 0.4 if kind == "blind" else 0.65) * mask[..., None]


def _silhouette(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    """What casts a shadow: 255 where it is, uint8 (H, W)."""
    height, width = shape
    mask = np.zeros(shape, np.uint8)
    size, middle = max(shape), rng.uniform(0.15, 0.85, 2) * (width, height)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])

    def fill(*corners: np.ndarray) -> None:
        cv2.fillConvexPoly(mask, np.array(corners).astype(np.int32), 255, cv2.LINE_AA)

    def stroke(start: np.ndarray, end: np.ndarray, wide: float) -> None:
        cv2.line(mask, tuple(map(int, start)), tuple(map(int, end)), 255, int(wide))

    far = 3 * size * along
    if kind == "edge":
        side = 3 * size * across
        fill(middle + side, middle - side, middle + far - side, middle + far + side)
    elif kind == "corner":
        sides = [3 * size * sign * rng.uniform(0.2, 1) * across for sign in (1, -1)]
        fill(middle, middle + far + sides[0], middle + far + sides[1])
    elif kind == "phone":
        long, wide = rng.uniform(0.3, 0.9) * size * along, rng.uniform(0.15, 0.3) * size * across
        fill(middle, middle + wide, middle + wide + long, middle + long)
    elif kind == "tip":
        half = rng.uniform(0.03, 0.12) * size
        side = half * across
        fill(middle + side, middle - side, middle + 2 * far / 3 - 3 * side, middle + 2 * far / 3 + 3 * side)
        cv2.circle(mask, tuple(map(int, middle)), int(half), 255, -1)
    elif kind == "hand":
        palm = middle + 0.35 * size * along
        cv2.circle(mask, tuple(map(int, palm)), int(0.16 * size), 255, -1)
        stroke(palm, palm + size * along, 0.22 * size)
        for finger in range(-2, 3):
            tip = palm - 0.33 * size * along + finger * 0.09 * size * across + abs(finger) * 0.04 * size * along
            stroke(palm + finger * 0.06 * size * across, tip, 0.055 * size)
    else:
        for at in np.arange(-1, 1, rng.uniform(0.08, 0.25)):
            start = middle + at * size * along
            stroke(start - 2 * size * across, start + 2 * size * across, 0.05 * size)
    return mask


def glare(rng: np.random.Generator, picture: np.ndarray, spots: int) -> np.ndarray:
    """Reflected lamps on a glossy plane: round or long spots that outshine what is there, seldom all of it."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(spots):
        angle = rng.uniform(0, np.pi)
        a = (x - rng.uniform(0, width)) * np.cos(angle) + (y - rng.uniform(0, height)) * np.sin(angle)
        b = -(x - rng.uniform(0, width)) * np.sin(angle) + (y - rng.uniform(0, height)) * np.cos(angle)
        size = max(height, width) * rng.uniform(0.05, 0.2)
        spot = np.exp(-(((a / size) ** 2 + (b / (size * rng.uniform(0.4, 3))) ** 2) ** rng.uniform(1, 2)))
        picture = picture + (rng.uniform(0.15, 0.65) * spot)[..., None]
    return picture


def camera(rng: np.random.Generator, picture: np.ndarray, rough: float = 1.0) -> tuple[np.ndarray, int]:
    """What a camera makes of a scene: exposure, colour cast, blur, noise; uint8 (H, W, 3) and the quality of the JPEG.

    Args:
        rng: of its chances.
        picture: the scene.
        rough: how bad; 1 is usual.
    """
    warm = rng.normal(0, 0.045)
    picture = picture * np.array([1 + warm, 1 + rng.normal(0, 0.01), 1 - warm], np.float32) * rng.uniform(0.78, 1.1)
    blur = rng.choice([0, rng.uniform(0.4, 1.0), rng.uniform(0.8, 1.7) * rough], p=[0.3, 0.5, 0.2])
    if blur > 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    if rng.random() < 0.08 * rough:  # the hand shook
        picture = _shaken(rng, picture, rng.uniform(2, 6))
    noise = rng.choice([0.004, 0.012, 0.03], p=[0.4, 0.4, 0.2]) * rng.uniform(0.5, 1.3) * rough
    shape = picture.shape
    grain = rng.standard_normal(shape[:2], dtype=np.float32)[..., None]
    if noise > 0.01:  # in colour, and coarse as a phone's filter leaves it
        small = rng.standard_normal((shape[0] // 2 + 1, shape[1] // 2 + 1, 3), dtype=np.float32)
        grain = 0.7 * grain + 0.7 * cv2.resize(small, shape[1::-1])
    picture = picture + noise * grain * (0.5 + 0.7 * np.sqrt(np.clip(picture.mean(2, keepdims=True), 0, 1)))
    gamma = rng.uniform(0.85, 1.15)
    picture = np.clip(picture, 0, 1) ** gamma
    if rng.random() < 0.15:  # sharpened
        picture = picture + rng.uniform(0.3, 0.9) * (picture - cv2.GaussianBlur(picture, (0, 0), 1.5))
    return (255 * np.clip(picture, 0, 1)).round().astype(np.uint8), int(rng.integers(40, 96))


def _shaken(rng: np.random.Generator, picture: np.ndarray, length: float) -> np.ndarray:
    side = int(length) | 1
    kernel = np.zeros((side, side), np.float32)
    angle = rng.uniform(0, np.pi)
    way = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    start, end = (side // 2 - way).round().astype(int), (side // 2 + way).round().astype(int)
    cv2.line(kernel, tuple(map(int, start)), tuple(map(int, end)), 1.0, 1)
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def encoded(picture: np.ndarray, quality: int = 0) -> bytes:
    """A picture's file: a JPEG of that quality, or a PNG without."""
    file = io.BytesIO()
    image = Image.fromarray(picture)
    image.save(file, "JPEG", quality=quality) if quality else image.save(file, "PNG")
    return file.getvalue()
