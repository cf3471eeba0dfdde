"""Changes at strengths: by hand, and at the strength that changes nothing."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from digits.data import DigitsDataModule
from digits.strengths import CURVES, changed


def dot(row: int, column: int, count: int = 1) -> np.ndarray:
    image = np.zeros((count, 1, 29, 29), np.uint8)
    image[:, 0, row, column] = 255
    return image


@pytest.mark.parametrize("name", CURVES)
def test_each_strength_is_an_image_and_one_changes_nothing(sample: DigitsDataModule, name: str) -> None:
    images, curve = sample.splits.test.images[:6].numpy(), CURVES[name]
    assert list(curve.strengths) == sorted(curve.strengths)
    for strength in curve.strengths:
        found = changed(name, strength, images, range(6))
        assert (found.dtype, found.shape) == (np.uint8, images.shape)
        assert np.array_equal(found, images) == (strength == curve.nothing)
        assert np.array_equal(changed(name, strength, images[4:], [4, 5]), found[4:])


def test_rotation_is_anticlockwise() -> None:
    assert np.array_equal(changed("rotation", 90, dot(14, 24), [0]), dot(4, 14))


def test_scale_is_about_the_centre() -> None:
    assert changed("scale", 0.5, dot(14, 24), [0])[0, 0, 14, 19] == 255


def test_shift_is_to_one_of_four_sides() -> None:
    found = changed("shift", 28 / 29 * 2, dot(14, 14, 40), range(40))[:, 0]
    assert {tuple(np.argwhere(image == 255)[0]) for image in found} == {(12, 14), (16, 14), (14, 12), (14, 16)}


def test_noise_has_its_standard_deviation() -> None:
    grey = np.full((50, 1, 28, 28), 128, np.uint8)
    found = changed("noise", 0.1, grey, range(50)).astype(float)
    assert found.std() == pytest.approx(25.5, rel=0.02)
    twice = changed("noise", 0.2, grey, range(50)).astype(float)
    assert np.abs((twice - 128) - 2 * (found - 128))[(twice > 0) & (twice < 255)].max() <= 1.5  # the same noise


def test_blur_by_scipy(sample: DigitsDataModule) -> None:
    image = sample.splits.test.images[:1].numpy()
    expected = gaussian_filter(image[0, 0].astype(float), 1.5, mode="nearest")
    assert np.abs(changed("blur", 1.5, image, [0])[0, 0] - expected).max() <= 0.51
