"""What a camera makes of a sheet: perspective, surroundings, light, blur, noise."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from digits.ink.sheets import colour_of, octaves
from digits.ink.writing import Box, Layers, at, union


def perspective(
    rng: np.random.Generator, angle: float, work: int, side: int, boxes: list[Box], upright: bool
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

    things = ["coffee", "chelsea", "rocket", "camera", "moon", "coins", "astronaut", "motorcycle_left"]
    names = ["brick", "grass", "gravel", "ihc", *things]
    folder = Path(skimage.__file__).parent / "data"
    files = [path for name in names for path in folder.glob(f"{name}.*")]
    return [np.asarray(Image.open(path).convert("RGB")) for path in files]


def surroundings(rng: np.random.Generator, side: int) -> np.ndarray:
    """What a sheet lies on, float32 (side, side, 3): wood, cloth, stone, a photograph, or a heap of things."""
    ground = colour_of(rng, rng.uniform(25, 200), rng.choice([5, 35]))
    which = rng.random()
    if which < 0.3:  # wood
        grain = cv2.resize(
            rng.normal(0, 1, (int(rng.integers(20, 120)), 4)).astype(np.float32),
            (side, side),
            interpolation=cv2.INTER_CUBIC,
        )
        grain += 0.5 * octaves(rng, side, 6)
        texture = ground + rng.uniform(5, 28) * grain[..., None] * np.array([1.2, 1, 0.8], np.float32)
        return np.ascontiguousarray(np.rot90(texture, int(rng.integers(2))))
    if which < 0.55:  # cloth, stone
        cells = rng.choice([60, 30, 15], 2)
        return ground + rng.uniform(3, 25) * octaves(rng, side, *cells)[..., None]
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
        colour = colour_of(rng, rng.uniform(10, 245), 30).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(
                image,
                at(x, y),
                at(size, size * rng.uniform(0.2, 1)),
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
    return image + 6 * octaves(rng, side, 60)[..., None]


def lay_on_desk(
    image: np.ndarray, matrix: np.ndarray, layers: Layers, rng: np.random.Generator, work: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the sheet out, lays it on something, and tells which pixels are not on the sheet any more."""
    nothing = (work // 2 - 20, work // 2 - 20, work // 2 + 20, work // 2 + 20)
    left, top, right, bottom = union(layers.boxes or [nothing])
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
    around = surroundings(rng, side)
    if rng.random() < 0.6:  # the sheet's own shadow
        shift = rng.normal(0, 4, 2)
        shadow = cv2.warpAffine(mask, np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32), (side, side))
        around *= (
            1 - rng.uniform(0.1, 0.6) * cv2.GaussianBlur(shadow, (0, 0), rng.uniform(1, 5)).astype(np.float32) / 255
        )[..., None]
    alpha = (mask.astype(np.float32) / 255)[..., None]
    return image * alpha + around * (1 - alpha), mask < 128


def lit(image: np.ndarray, rng: np.random.Generator, plain: bool) -> np.ndarray:
    """Light from somewhere, shadows, and glare."""
    side = len(image)
    if plain or rng.random() < 0.25:
        return image
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    light = 1 + rng.uniform(0, 0.25) * (rng.uniform(-1, 1) * ramp[None] + rng.uniform(-1, 1) * ramp[:, None])
    if rng.random() < 0.3:
        light = light - rng.uniform(0.1, 0.45) * (ramp[None] ** 2 + ramp[:, None] ** 2) / 2
    light *= rng.uniform(0.5, 1.05)
    for _ in range(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2])):
        mask = np.zeros((side, side), np.float32)
        if rng.random() < 0.6:
            corners = int(rng.integers(3, 6))
            middle, size = rng.uniform(0, side, 2), rng.uniform(0.15, 0.9) * side
            turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
            around = np.stack([np.cos(turns), np.sin(turns)], axis=1)
            points = middle + size * around * rng.uniform(0.5, 1.3, (corners, 1))
            cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1.0)
        else:  # of fingers, or of a pen
            root, thick = rng.uniform(-0.1, 1.1, 2) * side, int(rng.integers(3, 30))
            for tip in root + rng.normal(0, 0.4 * side) + rng.normal(0, 0.15 * side, (rng.integers(1, 6), 2)):
                cv2.line(mask, at(*root), at(*tip), 1.0, thick)
                root = root + rng.normal(0, thick, 2)
        mask = cv2.GaussianBlur(mask, (0, 0), float(np.exp(rng.uniform(np.log(0.6), np.log(14)))))
        light *= 1 - rng.uniform(0.15, 0.6) * mask
    image = image * light[..., None]
    if rng.random() < 0.12:  # glare
        mask = np.zeros((side, side), np.float32)
        width, height = rng.uniform(0.08, 0.5, 2) * side
        x, y = rng.uniform(0, side, 2)
        cv2.ellipse(mask, at(x, y), at(width, height), rng.uniform(0, 180), 0, 360, 1.0, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(3, 25))
        image = image + rng.uniform(40, 160) * mask[..., None]
    return image


def cropped(
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
    parts = [part[y0:y1, x0:x1] for part in (image, clean, labels)]
    above, left = int(rng.integers(side - (y1 - y0) + 1)), int(rng.integers(side - (x1 - x0) + 1))
    pads = [(above, side - (y1 - y0) - above), (left, side - (x1 - x0) - left)]
    return np.pad(parts[0], [*pads, (0, 0)], mode="edge"), np.pad(parts[1], pads), np.pad(parts[2], pads)


def framed(image: np.ndarray, rng: np.random.Generator) -> None:
    """Lines along the edges of the picture, in place."""
    side, colour = len(image), colour_of(rng, rng.uniform(0, 255), 10).tolist()
    at, thick = int(rng.integers(0, 6)), int(rng.integers(1, 7))
    cv2.rectangle(image, (at, at), (side - 1 - at, side - 1 - at), colour, thick)


def taken(image: np.ndarray, rng: np.random.Generator, plain: bool) -> np.ndarray:
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
