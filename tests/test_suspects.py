"""What looks wrong among images: each kind made by hand from real digits, and found again."""

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from digits.data import DigitsDataModule
from digits.suspects import blanks, components, duplicates, flattened, near_duplicates, outliers, suspects


@pytest.fixture(scope="module")
def digits(sample: DigitsDataModule) -> tuple[np.ndarray, np.ndarray]:
    return sample.splits.train.images.numpy(), sample.splits.train.target.numpy()


def test_blank_images(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images = digits[0][:6].copy()
    images[1], images[3] = 0, 200
    images[3, 0, 5, 5] = 210  # faint: nothing can be read from 10 levels of 255
    assert [(one.position, one.value) for one in blanks(images)] == [(1, 0), (3, 10)]


def test_equal_images_are_named_with_the_first_of_them(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images = digits[0][:20].copy()
    images[7] = images[19] = images[2]
    assert [(one.position, one.twin) for one in duplicates(images, set())] == [(7, 2), (19, 2)]


@pytest.mark.parametrize("side", [28, 64])
def test_near_duplicates_are_those_of_all_pairs(digits: tuple[np.ndarray, np.ndarray], side: int) -> None:
    """Beside the correlation of each pair, by NumPy."""
    images = digits[0][:600].astype(float)
    rng = np.random.default_rng(0)
    images[100] = 0.7 * images[5] + 20  # another brightness and contrast
    images[101] = images[6] + rng.normal(0, 8, (1, 28, 28))  # noise
    images[102] = np.roll(images[7], 8, axis=2)  # that is another image
    images = images.clip(0, 255).astype(np.uint8)
    expected = np.corrcoef(images.reshape(len(images), -1))
    if side > 28:  # what is compared is smaller again
        images = images.repeat(3, axis=2).repeat(3, axis=3)
    found = {one.position: one for one in near_duplicates(flattened(images), 0.97, set())}
    assert {100, 101} <= found.keys()
    assert 102 not in found
    assert (found[100].twin, found[101].twin) == (5, 6)
    if side == 28:
        later = np.nonzero(np.tril(expected >= 0.97, -1))[0]
        assert sorted(found) == sorted(set(later.tolist()))
        for position, one in found.items():
            assert one.value == pytest.approx(expected[position, :position].max(), abs=1e-4)


def test_outliers_are_scikit_learns_of_each_class(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, target = digits[0].copy(), digits[1]
    zeros = np.flatnonzero(target == 0)
    images[zeros[3]] = np.random.default_rng(0).integers(0, 256, (1, 28, 28))
    places = components(flattened(images))
    found = outliers(places, target, 3, set())
    assert next(one.position for one in found if target[one.position] == 0) == zeros[3]
    factor = -LocalOutlierFactor(20).fit(places[zeros]).negative_outlier_factor_
    values = {one.position: one.value for one in found}
    assert values[zeros[3]] == pytest.approx(factor[3])
    assert {one for one in values if target[one] == 0} <= {*zeros[np.argsort(-factor)[:3]].tolist()}
    assert np.bincount(target[[one.position for one in found]]).max() <= 3
    assert outliers(places, target, 0, set()) == []


def test_an_image_is_named_once(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, target = digits[0][:500].copy(), digits[1][:500]
    images[10], images[20], images[30] = 0, 0, images[40]
    found, _ = suspects(images, target, 0.99, 5)
    reasons = {position: [one.reason for one in found if one.position == position] for position in (10, 20, 40)}
    assert reasons == {10: ["blank"], 20: ["blank"], 40: ["duplicate"]}
    assert "near-duplicate" not in {one.reason for one in suspects(images, target, 1, 5)[0]}


def test_few_images(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, target = digits[0][:3], digits[1][:3]
    assert suspects(images, target, 0.99, 5)[0] == []
    assert [one.reason for one in suspects(np.zeros_like(images), target, 0.99, 5)[0]] == ["blank"] * 3
