"""Splits: what to train on, choose on and report on."""

import math
from dataclasses import dataclass

import numpy as np

from digits.data.images import TensorImages
from digits.errors import UserError


@dataclass(frozen=True)
class Splits:
    """What to train on, choose on and report on; no image is in two of them."""

    train: TensorImages
    val: TensorImages
    test: TensorImages


def size_in_images(size: float | None, total: int) -> int:
    """A size in images: of None a tenth, at most 5,000; of a fraction that share of `total`."""
    if size is None:
        return min(5_000, round(total / 10))
    return round(size * total) if size < 1 else int(size)


def split(
    images: TensorImages, held_out: int, seed: int, class_names: tuple[str, ...], key: str
) -> tuple[TensorImages, TensorImages]:
    """Cuts `held_out` images off, stratified by class: (the rest, the held-out ones), in the order in which they are.

    Raises:
        UserError: if a class would be missing on either side; it names `key`, the argument that asked for it.
    """
    if key == "val_size" and held_out == 0:
        return images, images.subset(np.arange(0))
    rest_size, target = len(images) - held_out, images.target.numpy()
    counts = np.bincount(target)
    present = np.flatnonzero(counts)
    smallest = present[counts[present].argmin()]
    problem, parts = "", []
    if counts[smallest] > 1 and min(held_out, rest_size) < len(present):
        problem = (
            f"each of {len(present)} classes has to be among the images held out and among the other"
            f" {max(0, rest_size):,} of {len(images):,}; give another size"
        )
    elif counts[smallest] > 1:
        from sklearn.model_selection import train_test_split  # here, as by the commands that read pictures

        parts = train_test_split(np.arange(len(images)), test_size=held_out, stratify=target, random_state=seed)
    if not problem and (not parts or any(len(np.unique(target[part])) < len(present) for part in parts)):
        needed = max(2, math.ceil(len(images) / min(held_out, rest_size)))
        problem = (
            f"class {class_names[smallest]} has {counts[smallest]} of {len(images):,} images, too few for a share in"
            f" each split: it needs {needed}. Add images, or give another size"
        )
    if problem:
        raise UserError(f"data.{key}={held_out}: {problem}")
    rest, held = map(np.sort, parts)
    return images.subset(rest), images.subset(held)


def cut_fold(
    images: TensorImages, folds: int, fold: int, seed: int, class_names: tuple[str, ...]
) -> tuple[TensorImages, TensorImages]:
    """Part `fold` of a stratified cross-validation: (the other parts, this part).

    Raises:
        UserError: if a class has fewer images than there are folds.
    """
    target = images.target.numpy()
    counts = np.bincount(target)
    smallest = np.where(counts > 0, counts, len(images)).argmin()
    if counts[smallest] < folds:
        raise UserError(
            f"data.folds={folds}: class {class_names[smallest]} has {counts[smallest]} images, fewer than one a fold;"
            " add images, or give fewer folds"
        )
    from sklearn.model_selection import StratifiedKFold

    cuts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(target, target)
    rest, held = list(cuts)[fold]
    return images.subset(rest), images.subset(held)
