"""The pages that the ink network is trained on, and what it should say of them."""

import numpy as np
import pytest

from digits.data.datasets import Mnist5k
from digits.ink import marks
from digits.ink.pages import Page, page
from digits.ink.targets import targets


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return Mnist5k().load().train.images[:, 0].numpy()


def test_a_page_is_the_same_each_time(digits: np.ndarray) -> None:
    first, again = (page(np.random.default_rng(7), digits) for _ in range(2))
    other = page(np.random.default_rng(8), digits)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_what_a_page_says_fits_together(digits: np.ndarray) -> None:
    written = 0
    for seed in range(40):
        drawn = page(np.random.default_rng(seed), digits)
        assert drawn.image.shape == (256, 256, 3)
        assert drawn.image.dtype == np.uint8
        assert drawn.clean.min() >= 0
        assert drawn.clean.max() <= 1 + 1e-5
        assert drawn.labels.max() < len(drawn.kinds)
        assert set(drawn.kinds) <= set(range(1 + len(marks.SEPARATORS)))
        ink = drawn.clean > 0.5
        if ink.sum() > 30:
            written += 1
            assert (drawn.labels[ink] > 0).mean() > 0.9
    assert written > 25  # the others are empty, or of something else


def test_marks_have_the_width_of_mnists_strokes(digits: np.ndarray) -> None:
    """Whatever the pen, `clean` is the digit itself: it correlates with it as drawn."""
    import cv2

    rng, likeness = np.random.default_rng(0), []
    for number in range(0, 5000, 250):
        rows, columns = np.nonzero(digits[number] > 60)
        cut = digits[number][rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.float32)
        for pen in (0.4, 1.0, 1.8):
            clean = marks.digit(digits[number], rng, pen).clean
            small = cv2.resize(clean, cut.shape[::-1], interpolation=cv2.INTER_AREA)
            likeness.append(np.corrcoef(small.ravel(), cut.ravel())[0, 1])
    assert np.median(likeness) > 0.9
    assert min(likeness) > 0.5


@pytest.mark.parametrize("text", [*marks.SEPARATORS])
def test_separators_know_their_kind(text: str) -> None:
    drawn = marks.sign(text, np.random.default_rng(0), 1.0)
    assert marks.SEPARATORS[drawn.kind - 1] == text
    assert drawn.ink.max() > 0.5


def test_targets_by_hand() -> None:
    labels = np.zeros((64, 64), np.int16)
    labels[8:28, 16:24] = 1  # 20 high, with its middle at (19.5, 17.5)
    labels[40:43, 40:43] = 2  # a full stop, too small for anything else
    said = targets(Page(np.zeros((64, 64, 3), np.uint8), (labels > 0) * 1.0, labels, [0, 0, 1], 30.0))
    assert said["clean"].shape == (1, 64, 64)
    assert said["middle"][17 // 4, 19 // 4] == pytest.approx(1)
    assert said["middle"][41 // 4, 41 // 4] == pytest.approx(1)
    assert said["kind"][3, 4] == 0
    assert said["kind"][10, 10] == 1
    assert said["kind"][0, 0] == -1
    # From the middle of the cell in row 3 and column 4, (17.5, 13.5), to that of the mark, in units of 32 pixels
    np.testing.assert_allclose(said["offset"][:, 3, 4], (2 / 32, 4 / 32))
    assert said["angle"] == pytest.approx(0.5)
    assert said["weight"][3, 4] == pytest.approx(32 / 20)
