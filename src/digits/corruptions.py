"""The fifteen corruptions of MNIST-C, written anew from their published definitions: "MNIST-C style".

Source: Mu and Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision, https://arxiv.org/abs/1906.02337; noise,
blur, fog, brightness and spatter are those of Hendrycks and Dietterich, https://arxiv.org/abs/1903.12261. The strengths
are those of the published data set. The random numbers are other ones, so that no image is the same as in that file.

They are defined for grey images of 28×28 pixels, light on dark. On others, lengths grow with the image's side; on a
light ground, what enters from outside repeats the edge, and lines are dark. Each function takes images (N, C, H, W),
float32 in [0, 1], and a generator for each of them; it returns such images, which may leave [0, 1].
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

SIDE = 28  # pixels: what the strengths are defined for
SMALLEST = 8  # pixels of a side: in smaller images a line hides everything
MAP_SIDE = 256  # of a fog's height map, of which an image gets a corner
FOGS_AT_A_TIME = 16  # height maps that fit into a processor's cache
LIGHT, DARK, LINE_WIDTH = 1.0, 0.0, 2.3  # the last in pixels: half of a line's width

Generators = Sequence[np.random.Generator]


def corrupt(
    name: str,
    change: Callable[..., np.ndarray],
    images: np.ndarray,
    index: Sequence[int] | np.ndarray,
    seed: int = 0,
    dark: bool = True,
) -> np.ndarray:
    """Corrupts images; what becomes of each depends on its index, the seed and the name alone, not on the others.

    Args:
        name: of the change, by which its random numbers differ from those of others.
        change: one of `CORRUPTIONS`, or such a function of one's own.
        images: uint8 of shape (N, C, H, W).
        index: (N,): where each image stands in its data set.
        seed: of the random numbers.
        dark: whether the ground of the data set's images is: see `dark_ground`.

    Returns:
        uint8 of shape (N, C, H, W).
    """
    key = int.from_bytes(name.encode(), "little")
    rngs = [np.random.default_rng((seed, key, int(number))) for number in index]
    found = change(images.astype(np.float32) / 255, rngs, dark=dark)
    return (found.clip(0, 1) * 255).round().astype(np.uint8)


def dark_ground(images: np.ndarray) -> bool:
    """Whether most of the pixels along the edges of images (N, C, H, W), uint8, are dark."""
    edges = (images[:, :, 0], images[:, :, -1], images[..., 0], images[..., -1])
    return bool(np.median(np.concatenate([edge.ravel() for edge in edges])) < 128)


# Noise


def shot_noise(images: np.ndarray, rngs: Generators, *, dark: bool, photons: float = 3) -> np.ndarray:
    """Each pixel counts photons: Poisson(3 x) / 3. Strength: 3 photons for white, severity 5 of 5."""
    return np.stack([rng.poisson(photons * image) for image, rng in zip(images, rngs, strict=True)]) / photons


def impulse_noise(images: np.ndarray, rngs: Generators, *, dark: bool, amount: float = 0.17) -> np.ndarray:
    """Salt and pepper: pixels become black or white, as likely. Strength: 17 % of them, severity 4 of 5."""
    chance = _uniform(rngs, images.shape[1:])
    return np.where(chance < amount / 2, DARK, np.where(chance < amount, LIGHT, images))


# Blur


def glass_blur(
    images: np.ndarray, rngs: Generators, *, dark: bool, sigma: float = 0.7, reach: int = 1, times: int = 2
) -> np.ndarray:
    """A Gaussian blur, then pixels change places with near ones, row by row from the lower right, then the blur again.

    A pixel stays or, as likely, is swapped with the one that lies 0 or 1 row above and 0 or 1 column to the left of it.
    Strength: sigma 0.7 pixels, reach 1 pixel, twice; severity 1 of 5.
    """
    side, unit = images.shape[-1], images.shape[-1] / SIDE
    reach = max(1, round(reach * unit))
    soft = np.floor(255 * blurred(images, sigma * unit)) / 255
    places = range(side - reach, reach, -1)
    draws = np.stack([_swaps(rng, reach, times * len(places) ** 2) for rng in rngs], axis=1)  # (steps, N, 2)
    everyone, step = np.arange(len(images)), 0
    for _ in range(times):
        for row in places:
            for column in places:
                up, left = draws[step].T
                here, there = soft[:, :, row, column].copy(), soft[everyone, :, row - up, column - left]
                soft[:, :, row, column] = there
                soft[everyone, :, row - up, column - left] = here
                step += 1
    return blurred(soft, sigma * unit)


def _swaps(rng: np.random.Generator, reach: int, steps: int) -> np.ndarray:
    """How far up and to the left each pixel is swapped: (steps, 2), both 0 for those that stay."""
    way = -rng.integers(-reach, reach, (steps, 2), dtype=np.int8)
    return way * (rng.random(steps, dtype=np.float32) < 0.5)[:, None]


def motion_blur(
    images: np.ndarray, rngs: Generators, *, dark: bool, radius: float = 10, sigma: float = 3
) -> np.ndarray:
    """The mean of the pixels along a line, by half a Gaussian, in a direction from -45 to 45 degrees of the x-axis.

    As ImageMagick's motion blur has it: pixels at whole places, outside of the image those of its edge. Strength:
    sigma 3 pixels on a line of 21; severity 1 of 5.
    """
    count, channels, side, _ = images.shape
    unit = side / SIDE
    steps = np.arange(2 * int(np.ceil(radius * unit)) + 1)
    weights = np.exp(-(steps**2) / (2 * (sigma * unit) ** 2))
    angles = np.radians([rng.uniform(-45, 45) for rng in rngs])[:, None]
    right, down = (np.ceil(steps * part - 0.5).astype(int) for part in (np.cos(angles), np.sin(angles)))  # (N, steps)
    flat, places, found = images.reshape(count, channels, -1), np.arange(side), np.zeros((count, channels, side**2))
    for step, weight in enumerate(weights / weights.sum()):
        rows = (places + down[:, step, None]).clip(0, side - 1)
        columns = (places + right[:, step, None]).clip(0, side - 1)
        from_where = (rows[:, :, None] * side + columns[:, None]).reshape(count, 1, -1)
        found += weight * np.take_along_axis(flat, from_where, axis=2)
    return found.reshape(images.shape)


# Affine transformations, which keep the image's centre where it is


def shear(images: np.ndarray, rngs: Generators, *, dark: bool, angle: float = 0.4) -> np.ndarray:
    """Slants by an angle, to either side. Strength: 0.4 radians (22.9 degrees), severity 2 of 5.

    As the definition's scikit-image (before 0.19) has it: lengths along the slant stay, so that heights change by
    cos(0.4).
    """
    by_sign = {sign: np.array([[np.cos(angle), 0], [-np.sin(sign * angle), 1]]) for sign in (-1, 1)}
    return warped(images, [by_sign[sign] for sign in signs(rngs, 1)[:, 0]], dark)


def scale(images: np.ndarray, rngs: Generators, *, dark: bool, factor: float = 0.7) -> np.ndarray:
    """Makes the image smaller. Strength: to 0.7 of its size, severity 3 of 5."""
    return warped(images, [np.eye(2) / factor] * len(images), dark)


def rotate(images: np.ndarray, rngs: Generators, *, dark: bool, angle: float = 0.4) -> np.ndarray:
    """Turns to either side. Strength: 0.4 radians (22.9 degrees), severity 2 of 5."""
    return warped(images, [turn(sign * angle) for sign in signs(rngs, 1)[:, 0]], dark)


def translate(images: np.ndarray, rngs: Generators, *, dark: bool, pixels: float = 3) -> np.ndarray:
    """Shifts along both axes, each to either side. Strength: 3 pixels along each, severity 3 of 5."""
    ways = pixels * images.shape[-1] / SIDE * signs(rngs, 2)
    return warped(images, [np.eye(2)] * len(images), dark, ways)


def signs(rngs: Generators, count: int) -> np.ndarray:
    """-1 or 1, as likely: (N, count)."""
    return np.stack([rng.choice((-1, 1), count) for rng in rngs])


def turn(angle: float) -> np.ndarray:
    """The matrix, of rows and columns, that turns by an angle in radians."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def warped(
    images: np.ndarray, matrices: Sequence[np.ndarray], dark: bool, shifts: np.ndarray | None = None
) -> np.ndarray:
    """Images (N, C, H, W) by affine transformations about their centre, with linear interpolation.

    Args:
        images: to transform.
        matrices: for each, (2, 2): from a place (row, column) in the result to one in the image.
        dark: whether what enters from outside is black; else it repeats the edge.
        shifts: for each, what is added to that: rows and columns, in pixels.
    """
    shifts = np.zeros((len(images), 2)) if shifts is None else shifts
    centre = (np.array(images.shape[-2:]) - 1) / 2
    settings = np.concatenate([np.reshape(matrices, (-1, 4)), shifts], axis=1)
    found = np.empty_like(images)
    for setting in np.unique(settings, axis=0):
        which = (settings == setting).all(axis=1)
        matrix, shift = setting[:4].reshape(2, 2), setting[4:]
        some = images[which].reshape(-1, *images.shape[-2:])
        whole = np.block([[np.ones((1, 1)), np.zeros((1, 2))], [np.zeros((2, 1)), matrix]])
        offset = [0, *(centre - matrix @ centre + shift)]
        mode = "grid-constant" if dark else "nearest"
        moved = affine_transform(some, whole, offset, order=1, mode=mode, cval=DARK)
        found[which] = moved.reshape(-1, *images.shape[1:])
    return found


# Light and weather


def brightness(images: np.ndarray, rngs: Generators, *, dark: bool, amount: float = 0.5) -> np.ndarray:
    """Adds to the V of HSV, which of a grey pixel is its value. Strength: 0.5, severity 5 of 5."""
    value = images.max(axis=1, keepdims=True)
    brighter = (value + amount).clip(0, 1)
    return np.where(value > 0, images * brighter / np.maximum(value, 1e-6), brighter)


def stripe(images: np.ndarray, rngs: Generators, *, dark: bool) -> np.ndarray:
    """Inverts the left and the right quarter of the image. It has one strength."""
    quarter = round(images.shape[-1] / 4)
    found = images.copy()
    for columns in (slice(0, quarter), slice(-quarter, None)):
        found[..., columns] = 1 - images[..., columns]
    return found


def fog(images: np.ndarray, rngs: Generators, *, dark: bool, thickness: float = 3, decay: float = 1.4) -> np.ndarray:
    """Adds a plasma fractal, and scales back to the brightest pixel. Strength: thickness 3, decay 1.4; severity 5 of 5.

    An image gets the upper left corner of a height map of 256×256, from 0 to 1.
    """
    side = images.shape[-1]
    found = np.empty_like(images)
    for start in range(0, len(images), FOGS_AT_A_TIME):
        some = slice(start, start + FOGS_AT_A_TIME)
        map_side = max(MAP_SIDE, 2 ** int(np.ceil(np.log2(side))))
        plasma = plasma_fractal(rngs[some], map_side, decay)[:, None, :side, :side]
        most = images[some].max(axis=(1, 2, 3), keepdims=True)
        found[some] = (images[some] + thickness * plasma) * most / (most + thickness)
    return found


def plasma_fractal(rngs: Generators, side: int, decay: float) -> np.ndarray:
    """Height maps by the diamond-square algorithm, on a torus: (N, side, side), each from 0 to 1.

    Each point in the middle of four gets their mean and a random amount, of which the range falls by decay² from one
    doubling of the grid to the next.

    Args:
        rngs: a generator for each.
        side: a power of two.
        decay: above 1.
    """
    noise = np.empty((len(rngs), side**2 - 1), np.float32)
    for row, rng in zip(noise, rngs, strict=True):
        rng.random(out=row, dtype=np.float32)
    noise = 2 * noise - 1
    heights, spread, used = np.zeros((len(rngs), 1, 1), np.float32), 1.0, 0
    while (points := heights.shape[-1]) < side:
        new = spread * noise[:, used : used + 3 * points**2].reshape(len(rngs), 3, points, points)
        below = np.roll(heights, -1, axis=1)
        centres = (heights + below + np.roll(heights + below, -1, axis=2)) / 4 + new[:, 0]
        # In the middle of an edge: its two ends, and the centres on its two sides.
        across = (heights + np.roll(heights, -1, axis=2) + centres + np.roll(centres, 1, axis=1)) / 4 + new[:, 1]
        along = (heights + below + centres + np.roll(centres, 1, axis=2)) / 4 + new[:, 2]
        finer = np.empty((len(rngs), 2 * points, 2 * points), np.float32)
        finer[:, ::2, ::2], finer[:, 1::2, 1::2], finer[:, ::2, 1::2], finer[:, 1::2, ::2] = (
            heights,
            centres,
            across,
            along,
        )
        heights, spread, used = finer, spread / decay**2, used + 3 * points**2
    low, high = heights.min(axis=(1, 2), keepdims=True), heights.max(axis=(1, 2), keepdims=True)
    return (heights - low) / (high - low)


def spatter(
    images: np.ndarray,
    rngs: Generators,
    *,
    dark: bool,
    liquid: tuple[float, float] = (0.65, 0.3),
    threshold: float = 0.65,
    sigmas: tuple[float, float] = (1, 1.5),
) -> np.ndarray:
    """Mud where blurred noise is above a threshold, with soft edges; mud is a dark grey, or brown in colour images.

    Strength: noise of mean 0.65 and sd 0.3, blurred by 1 pixel, above 0.65, blurred by 1.5 pixels; severity 4 of 5.
    """
    unit = images.shape[-1] / SIDE
    noise = np.stack([rng.normal(*liquid, images.shape[-2:]) for rng in rngs])[:, None]
    mud = blurred((blurred(noise, sigmas[0] * unit) > threshold).astype(np.float32), sigmas[1] * unit)
    mud[mud < 0.8] = 0
    colour = np.array([63, 42, 20] if images.shape[1] == 3 else [63])[:, None, None] / 255
    return images * (1 - mud) + colour * mud


# Lines


def dotted_line(images: np.ndarray, rngs: Generators, *, dark: bool) -> np.ndarray:
    """A line from the left edge to the right one, at random heights, in dashes of 2 pixels. It has one strength."""
    starts, ends = np.stack([rng.integers(0, SIDE - 1, 2) for rng in rngs]).T
    line = _lines(np.stack([0 * starts, starts, 0 * ends + SIDE - 1, ends], axis=1), images.shape[-1])
    line[..., np.floor(_places(images.shape[-1]) / 2) % 2 == 0] = 0
    return _drawn(images, line, dark)


def zigzag(images: np.ndarray, rngs: Generators, *, dark: bool, stretch: float = 2, width: float = 2) -> np.ndarray:
    """A zigzag from the left to the right, a little up or down. It has one strength.

    Its corners are 4 pixels apart, by turns 2 pixels on either side of a line from column 2 to column 25 whose ends
    differ by at most 5 rows.
    """
    first, last = 2, 25
    rows, rise = np.array([(rng.integers(0, SIDE - 1), rng.integers(-5, 5)) for rng in rngs]).T
    angle = np.arctan(rise / (last - first))
    length = (last - first) / np.cos(angle)  # (N,), in pixels: from 23 to 23.6
    corners = int((last - first - stretch) // (2 * stretch)) + 1  # as many for all of these lengths
    along = [0 * length, *(0 * length + (2 * i + 1) * stretch for i in range(corners)), length]
    beyond = length - 2 * stretch * (length // (2 * stretch))  # the definition's last corner lies almost on the line
    side = [0 * length, *(0 * length + (-1) ** i * width for i in range(corners))]
    side.append(side[-1] / (2 * beyond))
    columns = np.cos(angle) * along - np.sin(angle) * side + first  # (corners + 2, N)
    heights = np.sin(angle) * along + np.cos(angle) * side + rows
    points = np.stack([columns, heights], axis=-1)
    for start, end in pairwise(points):
        images = _drawn(images, _lines(np.concatenate([start, end], axis=1), images.shape[-1]), dark)
    return images


def canny_edges(images: np.ndarray, rngs: Generators, *, dark: bool) -> np.ndarray:
    """Canny's edges, white on black, by scikit-image with its own settings (sigma 1). It has one strength."""
    from skimage.feature import canny

    edges = np.stack([canny(image.mean(axis=0)) for image in images])
    return np.repeat(edges[:, None], images.shape[1], axis=1).astype(np.float32)


def _lines(ends: np.ndarray, side: int) -> np.ndarray:
    """Lines with soft edges, (N, 1, side, side) from 0 to 1: 1 + log(1 - d / 2.3), d pixels above or below.

    Args:
        ends: (N, 4): column and row of the left end and of the right one, in pixels of an image of 28×28.
        side: of the images.
    """
    from_column, from_row, to_column, to_row = ends.T[:, :, None, None]
    places = _places(side)
    rows = (to_row - from_row) / (to_column - from_column) * (places - from_column) + from_row  # (N, 1, side)
    distance = np.abs(places[:, None] - rows).clip(0, LINE_WIDTH * (1 - 1e-9))  # (N, side, side)
    ink = (1 + np.log(1 - distance / LINE_WIDTH)).clip(0, 1)
    between = (places >= np.floor(from_column)) & (places < np.ceil(to_column))
    return (ink * between)[:, None]


def _places(side: int) -> np.ndarray:
    """Where the pixels of a side lie, in pixels of an image of 28×28: (side,)."""
    return (np.arange(side) + 0.5) * SIDE / side - 0.5


def _drawn(images: np.ndarray, line: np.ndarray, dark: bool) -> np.ndarray:
    return (images + line if dark else images - line).clip(0, 1)


def _uniform(rngs: Generators, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([rng.random(shape, dtype=np.float32) for rng in rngs])


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs along the last two axes, by sigma pixels; outside of the image are those of its edge."""
    return gaussian_filter(images, (0, 0, sigma, sigma), mode="nearest")


CORRUPTIONS: dict[str, Callable[..., np.ndarray]] = {
    one.__name__: one
    for one in (
        *(shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness, translate),
        *(stripe, fog, spatter, dotted_line, zigzag, canny_edges),
    )
}
