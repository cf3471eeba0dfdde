"""Accuracy as a curve over the strength of one change: rotation, scale, shift, noise, blur.

These are no corruptions of MNIST-C: each goes from nothing to far beyond what anybody would read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from digits.corruptions import SIDE, Generators, blurred, corrupt, turn, warped


@dataclass(frozen=True)
class Curve:
    """A change with a strength."""

    unit: str  # of the strength, for the axis
    strengths: Sequence[float]  # that are tried, rising
    nothing: float  # the strength that leaves an image as it is
    # Takes images (N, C, H, W) in [0, 1], a generator for each, the strength, and whether the ground is dark.
    change: Callable[..., np.ndarray]


def rotation(images: np.ndarray, rngs: Generators, *, strength: float, dark: bool) -> np.ndarray:
    """Turns by so many degrees about the image's centre, anticlockwise."""
    return warped(images, [turn(np.radians(strength))] * len(images), dark)


def scaling(images: np.ndarray, rngs: Generators, *, strength: float, dark: bool) -> np.ndarray:
    """Scales to so many times the size, about the image's centre."""
    return warped(images, [np.eye(2) / strength] * len(images), dark)


def shift(images: np.ndarray, rngs: Generators, *, strength: float, dark: bool) -> np.ndarray:
    """Shifts by so many pixels (of an image of 28×28): each image up, down, to the left or to the right, by chance."""
    ways = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])
    chosen = np.array([ways[rng.integers(4)] for rng in rngs])
    return warped(images, [np.eye(2)] * len(images), dark, chosen * strength * images.shape[-1] / SIDE)


def noise(images: np.ndarray, rngs: Generators, *, strength: float, dark: bool) -> np.ndarray:
    """Adds Gaussian noise with this standard deviation, where white is 1. An image's noise differs in strength only."""
    return images + strength * np.stack([rng.standard_normal(images.shape[1:], dtype=np.float32) for rng in rngs])


def blur(images: np.ndarray, rngs: Generators, *, strength: float, dark: bool) -> np.ndarray:
    """Gaussian blur with this standard deviation, in pixels of an image of 28×28."""
    return blurred(images, strength * images.shape[-1] / SIDE)


CURVES = {
    "rotation": Curve("degrees, anticlockwise", (-75, -60, -45, -30, -15, 0, 15, 30, 45, 60, 75), 0, rotation),
    "scale": Curve("times the size", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4), 1, scaling),
    "shift": Curve("pixels, of 28", (0, 1, 2, 3, 4, 5, 6, 8), 0, shift),
    "noise": Curve("sd, of 0 to 1", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1), 0, noise),
    "blur": Curve("sd in pixels, of 28", (0, 0.5, 1, 1.5, 2, 2.5, 3, 4), 0, blur),
}


def changed(
    name: str, strength: float, images: np.ndarray, index: Sequence[int] | np.ndarray, seed: int = 0, dark: bool = True
) -> np.ndarray:
    """Images at a strength of the curve with this name; arguments and result as of `digits.corruptions.corrupt`."""
    curve = CURVES[name]
    if strength == curve.nothing:
        return images
    return corrupt(f"strength of {name}", partial(curve.change, strength=strength), images, index, seed, dark)
