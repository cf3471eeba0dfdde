"""Where a classifier errs: arithmetic on its confusion matrix and its logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95  # level of the intervals


@dataclass(frozen=True)
class Misclassification:
    """Summary of a confusion matrix; JSON-ready through `dataclasses.asdict`."""

    errors: int  # number of wrong answers
    total: int  # number of images
    per_class: list[dict]  # for each class `class`, `images`, `errors` and `rate` (errors / images, 0 for no images)
    most_missed: list[str]  # names of the classes with the highest rate, worst first; only classes with an error
    confusions: list[dict]  # `target`, `pred` and `count` of the most frequent confusions, most frequent first


def misclassification(
    confusion: np.ndarray, class_names: Sequence[str], most_missed: int = 3, pairs: int = 5
) -> Misclassification:
    """Summarises a confusion matrix (num_classes, num_classes) of counts: row target, column prediction."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    images, errors = confusion.sum(axis=1), wrong.sum(axis=1)
    rate = errors / np.maximum(images, 1)
    worst = [int(i) for i in np.argsort(-rate, kind="stable") if errors[i] > 0]
    target, pred = np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape)
    return Misclassification(
        errors=int(errors.sum()),
        total=int(images.sum()),
        per_class=[
            {"class": name, "images": int(images[i]), "errors": int(errors[i]), "rate": float(rate[i])}
            for i, name in enumerate(class_names)
        ],
        most_missed=[class_names[i] for i in worst[:most_missed]],
        confusions=[
            {"target": class_names[t], "pred": class_names[p], "count": int(wrong[t, p])}
            for t, p in zip(target[:pairs], pred[:pairs], strict=True)
            if wrong[t, p] > 0
        ],
    )


def by_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, (..., num_classes), by name; 0 where there is nothing to divide by.

    Args:
        confusion: counts (..., num_classes, num_classes): row target, column prediction.
    """
    hits = confusion.diagonal(axis1=-2, axis2=-1)
    target, pred = confusion.sum(axis=-1), confusion.sum(axis=-2)  # images and predictions of each class
    return {
        "precision": hits / np.maximum(pred, 1),
        "recall": hits / np.maximum(target, 1),
        "f1": 2 * hits / np.maximum(target + pred, 1),
    }


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's confidence interval, at the level `CONFIDENCE`, of a share: `right` of `total`."""
    from scipy.stats import binomtest

    between = binomtest(right, total).proportion_ci(CONFIDENCE, method="wilson")
    return between.low, between.high


@dataclass(frozen=True)
class Corrected:
    """A test against labels some of which were corrected; JSON-ready through `dataclasses.asdict`."""

    labels: int  # how many of the tested images have a corrected one
    errors: int  # wrong answers by the corrected labels
    total: int  # images
    acc: float  # by the corrected labels


def by_corrected_labels(
    pred: np.ndarray, target: np.ndarray, index: np.ndarray, right: Mapping[int, int]
) -> Corrected | None:
    """Tests answers (N,) against corrected labels; None where none of the images has one.

    Args:
        pred: answers.
        target: given labels.
        index: where each image stands in its data set.
        right: of images with a wrong label, by where they stand, the right one.
    """
    changed = np.array([right.get(int(i), int(label)) for i, label in zip(index, target, strict=True)], dtype=int)
    labels, errors = int((changed != target).sum()), int((pred != changed).sum())
    return Corrected(labels, errors, len(target), 1 - errors / len(target)) if labels else None


@dataclass(frozen=True)
class Mistakes:
    """The wrong answers, most confident first: position in the data set, target, answer and its probability."""

    index: np.ndarray
    target: np.ndarray
    pred: np.ndarray
    probability: np.ndarray


def confident_mistakes(probabilities: np.ndarray, target: np.ndarray) -> Mistakes:
    """Finds and sorts the wrong answers.

    Args:
        probabilities: (N, num_classes), each row sums to 1.
        target: (N,) class indices.
    """
    pred = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(pred != target)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return Mistakes(order, target[order], pred[order], confidence[order])
