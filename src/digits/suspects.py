"""Images that look wrong before anything is trained on them: arithmetic on the images of all splits together."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.random import default_rng
from scipy.spatial import KDTree
from sklearn.decomposition import PCA
from sklearn.neighbors import LocalOutlierFactor

from digits.data.images import image_hashes

SIDE = 32  # larger images are compared at this size, in pixels
COMPONENTS = 32  # principal components to look for neighbours in
FITTED = 10_000  # images to find the components with
NEIGHBOURS = 5  # of an image, among which its near-duplicates are looked for
DENSITY_NEIGHBOURS = 20  # of the local outlier factor; scikit-learn's default
LEAST_FACTOR = 1.5  # from which an image is an outlier: scikit-learn's contamination="auto"
FAINT = 16  # levels of 255: an image whose pixels differ less shows nothing


@dataclass(frozen=True)
class Suspect:
    """An image that looks wrong."""

    position: int  # among all images
    reason: str  # one of `REASONS`
    value: float | None = None  # what was measured; None for a blank one and for a duplicate
    twin: int | None = None  # position of the image that it repeats


BLANK, DUPLICATE, NEAR, OUTLIER = REASONS = ("blank", "duplicate", "near-duplicate", "outlier")


def flattened(images: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W), uint8, as float32 of shape (N, D) in [0, 1]; larger ones than `SIDE` are shrunk to it."""
    if max(images.shape[2:]) > SIDE:
        size = (SIDE, SIDE)
        images = np.stack(
            [cv2.resize(np.moveaxis(image, 0, -1), size, interpolation=cv2.INTER_AREA) for image in images]
        )
    return images.reshape(len(images), -1).astype(np.float32) / 255


def standardised(pixels: np.ndarray) -> np.ndarray:
    """Each image (N, D) with mean 0 and length 1, a blank one 0: a product of two is their pixels' correlation."""
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)


def components(pixels: np.ndarray) -> np.ndarray:
    """The principal components of images (N, D), the largest first, then the length of what these leave out: (N, K).

    Without the last, an image of noise would look like none in particular. Distances between such rows are at most
    those between the images.
    """
    chosen = default_rng(0).permutation(len(pixels))[:FITTED]
    number = min(COMPONENTS, len(chosen), pixels.shape[1])
    solver = "covariance_eigh" if pixels.shape[1] <= SIDE**2 else "randomized"
    pca = PCA(number, svd_solver=solver, random_state=0)
    with np.errstate(invalid="ignore"):  # the share of the variance that each explains, where there is none
        found = pca.fit(pixels[chosen]).transform(pixels)
    # |x - mean|², without a copy of all pixels, less what the components hold of it.
    squares = np.square(pixels).sum(axis=1) - 2 * pixels @ pca.mean_ + np.square(pca.mean_).sum()
    rest = np.sqrt(np.maximum(squares - np.square(found).sum(axis=1), 0))
    return np.column_stack([found, rest])


def blanks(images: np.ndarray) -> list[Suspect]:
    """Images (N, C, H, W), uint8, whose pixels differ by less than `FAINT` levels in each channel."""
    contrast = (images.max(axis=(2, 3)).astype(int) - images.min(axis=(2, 3))).max(axis=1)
    return [Suspect(int(i), BLANK, float(contrast[i])) for i in np.flatnonzero(contrast < FAINT)]


def duplicates(images: np.ndarray, left_out: set[int]) -> list[Suspect]:
    """Images (N, C, H, W), uint8, that are equal to an earlier one, with the first of these.

    Nothing is compared with the images at the positions `left_out`, such as blank ones.
    """
    first: dict[str, int] = {}
    hashes = image_hashes(torch.from_numpy(images))
    twins = [(i, first.setdefault(one, i)) for i, one in enumerate(hashes) if i not in left_out]
    return [Suspect(i, DUPLICATE, None, twin) for i, twin in twins if twin != i]


def near_duplicates(pixels: np.ndarray, least: float, left_out: set[int]) -> list[Suspect]:
    """Images whose pixels correlate with an earlier one's by `least` or more, with the most alike of these.

    Only the `NEIGHBOURS` that are nearest by their components are looked at; among these none is missed. `pixels` are
    (N, D), `least` is above 0.
    """
    kept = np.array([i for i in range(len(pixels)) if i not in left_out], dtype=int)
    if len(kept) < 2:
        return []
    pixels = standardised(pixels)
    points = components(pixels)[kept]
    # |a - b|² = 2 - 2 ab for vectors of length 1; rounding must not cost an image.
    radius = float(np.sqrt(max(0.0, 2 - 2 * least))) + 1e-3
    neighbours = min(NEIGHBOURS + 1, len(kept))
    _, near = KDTree(points).query(points, k=neighbours, distance_upper_bound=radius)
    row, column = np.nonzero(near < len(kept))
    a, b = kept[row], kept[near[row, column]]
    a, b = np.maximum(a, b)[a != b], np.minimum(a, b)[a != b]  # either may be the other's neighbour alone
    correlation = np.einsum("nd,nd->n", pixels[a], pixels[b])
    best: dict[int, tuple[float, int]] = {}
    for i, twin, value in zip(a.tolist(), b.tolist(), correlation.tolist(), strict=True):
        if value >= least and value > best.get(i, (0.0, 0))[0]:
            best[i] = value, twin
    return [Suspect(i, NEAR, *best[i]) for i in sorted(best, key=lambda i: -best[i][0])]


def outliers(places: np.ndarray, target: np.ndarray, most: int, left_out: set[int]) -> list[Suspect]:
    """Of each class at most `most` images that lie apart from the others of their class, the farthest first.

    Measured by scikit-learn's local outlier factor (Breunig et al., SIGMOD 2000): how much sparser an image's
    neighbourhood is than those of its neighbours; about 1 for an image among its like.

    `places` are the images' components (N, K).
    """
    found = []
    usable = np.array([i not in left_out for i in range(len(target))], dtype=bool)
    for label in np.unique(target) if most else []:
        own = np.flatnonzero((target == label) & usable)
        if len(own) <= DENSITY_NEIGHBOURS:  # too few to say what is usual
            continue
        factor = -LocalOutlierFactor(DENSITY_NEIGHBOURS).fit(places[own]).negative_outlier_factor_
        worst = np.argsort(-factor, kind="stable")[:most]
        found += [Suspect(int(own[i]), OUTLIER, float(factor[i])) for i in worst if factor[i] > LEAST_FACTOR]
    return sorted(found, key=lambda one: -(one.value or 0))


def suspects(images: np.ndarray, target: np.ndarray, near: float, most: int) -> tuple[list[Suspect], np.ndarray]:
    """All images that look wrong, by reason, and the components (N, K) of all.

    Args:
        images: (N, C, H, W), uint8.
        target: (N,), classes.
        near: correlation from which two images are near-duplicates; 1: none are.
        most: outliers of each class at most.
    """
    pixels = flattened(images)
    places = components(pixels)
    found = blanks(images)
    found += duplicates(images, {one.position for one in found})
    left_out = {one.position for one in found}
    found += near_duplicates(pixels, near, left_out) if near < 1 else []
    return [*found, *outliers(places, target, most, left_out)], places
