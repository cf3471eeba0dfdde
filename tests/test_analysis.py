"""The misclassification analysis against scikit-learn and against a matrix worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, recall_score

from digits.analysis import Corrected, by_class, by_corrected_labels, confident_mistakes, misclassification

NAMES = ["a", "b", "c"]
#          a  b  c
MATRIX = [[8, 2, 0],
          [1, 18, 1],
          [5, 0, 5]]  # fmt: skip


def test_by_hand() -> None:
    found = misclassification(np.array(MATRIX), NAMES, most_missed=2, pairs=3)
    assert (found.errors, found.total) == (9, 40)
    assert [row["errors"] for row in found.per_class] == [2, 2, 5]
    assert [row["rate"] for row in found.per_class] == [0.2, 0.1, 0.5]
    assert found.most_missed == ["c", "a"]
    assert [tuple(pair.values()) for pair in found.confusions] == [("c", "a", 5), ("a", "b", 2), ("b", "a", 1)]


def test_by_class_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    target, pred = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    *expected, _ = precision_recall_fscore_support(target, pred)
    both = np.stack([confusion_matrix(target, pred), np.zeros((3, 3), int)])  # an empty class has 0
    found = by_class(both)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=True):
        np.testing.assert_allclose(found[name], [values, [0, 0, 0]])


def test_rate_is_one_minus_scikit_learns_recall() -> None:
    rng = np.random.default_rng(0)
    target, pred = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    found = misclassification(confusion_matrix(target, pred), NAMES)
    np.testing.assert_allclose([row["rate"] for row in found.per_class], 1 - recall_score(target, pred, average=None))
    assert found.errors == (target != pred).sum()


def test_nothing_wrong_and_a_class_without_images() -> None:
    found = misclassification(np.diag([5, 0, 7]), NAMES)
    assert found.errors == 0
    assert found.most_missed == []
    assert found.confusions == []
    assert [row["rate"] for row in found.per_class] == [0, 0, 0]


def test_mistakes_are_sorted_by_confidence() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.6, 0.4, 0.0]])
    found = confident_mistakes(probabilities, np.array([0, 2, 0, 1]))
    assert found.index.tolist() == [2, 1, 3]
    assert found.target.tolist() == [0, 2, 1]
    assert found.pred.tolist() == [2, 1, 0]
    assert found.probability.tolist() == pytest.approx([0.8, 0.7, 0.6])


def test_accuracy_by_corrected_labels_by_hand() -> None:
    target, pred, index = np.array([3, 5, 5, 1]), np.array([3, 3, 6, 1]), np.array([10, 11, 12, 13])
    right = {11: 3, 13: 7, 99: 0}  # one of them is answered as corrected, one as given, one is not among the tested
    assert by_corrected_labels(pred, target, index, right) == Corrected(labels=2, errors=2, total=4, acc=0.5)
    assert by_corrected_labels(pred, target, index, {99: 0}) is None
