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
    """An image that looks wrong.

    Args:
        position: among all images.
        reason: one of `REASONS`.
        value: what was measured; None for a blank one and for a duplicate.
        twin: position of the image that it repeats.
    """

    position: int
    reason: str
    value: float | None = None
    twin: int | None = None


BLANK, DUPLICATE, NEAR, OUTLIER = REASONS = ("blank", "duplicate", "near-duplicate", "outlier")


@dataclass(frozen=True)
class Compared:
    """Images as they are compared with each other.

    Args:
        pixels: (N, D), float32: each image with mean 0 and length 1, so that a product of two is the correlation of
            their pixels; blank ones are 0.
        components: (N, K), float32: the principal components of `pixels`, the largest first.
    """

    pixels: np.ndarray
    components: np.ndarray


def compared(images: np.ndarray) -> Compared:
    """Brings images (N, C, H, W), uint8, into the form in which they are compared: brightness and contrast left out."""
    count, _, height, width = images.shape
    if max(height, width) > SIDE:
        size = (SIDE, SIDE)
        shrunk = [cv2.resize(np.moveaxis(image, 0, -1), size, interpolation=cv2.INTER_AREA) for image in images]
        images = np.stack(shrunk)
    pixels = images.reshape(count, -1).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)
    chosen = default_rng(0).permutation(count)[:FITTED]
    number = min(COMPONENTS, len(chosen), pixels.shape[1])
    pca = PCA(number, svd_solver="covariance_eigh" if pixels.shape[1] <= SIDE**2 else "randomized", random_state=0)
    return Compared(pixels, pca.fit(pixels[chosen]).transform(pixels))


def blanks(images: np.ndarray) -> list[Suspect]:
    """Images (N, C, H, W), uint8, whose pixels differ by less than `FAINT` levels in each channel."""
    contrast = (images.max(axis=(2, 3)).astype(int) - images.min(axis=(2, 3))).max(axis=1)
    return [Suspect(int(i), BLANK, float(contrast[i])) for i in np.flatnonzero(contrast < FAINT)]


def duplicates(images: np.ndarray) -> list[Suspect]:
    """Images (N, C, H, W), uint8, that are equal to an earlier one, with the first of these."""
    first: dict[str, int] = {}
    hashes = image_hashes(torch.from_numpy(images))
    twins = [(i, first.setdefault(one, i)) for i, one in enumerate(hashes)]
    return [Suspect(i, DUPLICATE, None, twin) for i, twin in twins if twin != i]


def near_duplicates(images: Compared, least: float, left_out: set[int]) -> list[Suspect]:
    """Images whose pixels correlate with an earlier one's by `least` or more, with the most alike of these.

    Only the `NEIGHBOURS` that are nearest by the components are looked at. A distance between components is at most
    that between the images, so that among these none is missed.

    Args:
        images: all.
        least: a correlation above 0.
        left_out: positions of images that are not looked at, as blank ones and duplicates.
    """
    kept = np.array([i for i in range(len(images.pixels)) if i not in left_out], dtype=int)
    if len(kept) < 2:
        return []
    points = images.components[kept]
    # |a - b|² = 2 - 2 ab for vectors of length 1; rounding must not cost an image.
    radius = float(np.sqrt(max(0.0, 2 - 2 * least))) + 1e-3
    neighbours = min(NEIGHBOURS + 1, len(kept))
    _, near = KDTree(points).query(points, k=neighbours, distance_upper_bound=radius)
    row, column = np.nonzero(near < len(kept))
    a, b = kept[row], kept[near[row, column]]
    a, b = np.maximum(a, b)[a != b], np.minimum(a, b)[a != b]  # either may be the other's neighbour alone
    correlation = np.einsum("nd,nd->n", images.pixels[a], images.pixels[b])
    best: dict[int, tuple[float, int]] = {}
    for i, twin, value in zip(a.tolist(), b.tolist(), correlation.tolist(), strict=True):
        if value >= least and value > best.get(i, (0.0, 0))[0]:
            best[i] = value, twin
    return [Suspect(i, NEAR, *best[i]) for i in sorted(best, key=lambda i: -best[i][0])]


def outliers(images: Compared, target: np.ndarray, most: int, left_out: set[int]) -> list[Suspect]:
    """Of each class at most `most` images that lie apart from the others of their class, the farthest first.

    Measured by scikit-learn's local outlier factor (Breunig et al., SIGMOD 2000) of the components: how much sparser
    an image's neighbourhood is than those of its neighbours; about 1 for an image among its like.

    Args:
        images: all.
        target: (N,), classes.
        most: images of each class.
        left_out: positions of images that are not looked at.
    """
    found = []
    usable = np.array([i not in left_out for i in range(len(target))], dtype=bool)
    for label in np.unique(target) if most else []:
        own = np.flatnonzero((target == label) & usable)
        if len(own) <= DENSITY_NEIGHBOURS:  # too few to say what is usual
            continue
        factor = -LocalOutlierFactor(DENSITY_NEIGHBOURS).fit(images.components[own]).negative_outlier_factor_
        worst = np.argsort(-factor, kind="stable")[:most]
        found += [Suspect(int(own[i]), OUTLIER, float(factor[i])) for i in worst if factor[i] > LEAST_FACTOR]
    return sorted(found, key=lambda one: -(one.value or 0))


def suspects(images: np.ndarray, target: np.ndarray, near: float, most: int) -> tuple[list[Suspect], Compared]:
    """All images that look wrong, by reason, and what they were compared as.

    Args:
        images: (N, C, H, W), uint8.
        target: (N,), classes.
        near: correlation from which two images are near-duplicates; 1: none are.
        most: outliers of each class at most.
    """
    seen = compared(images)
    found = [*blanks(images), *duplicates(images)]
    left_out = {one.position for one in found}
    found += near_duplicates(seen, near, left_out) if near < 1 else []
    return [*found, *outliers(seen, target, most, left_out)], seen
