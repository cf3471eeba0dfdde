"""The fifteen corruptions against their definitions, on images made by hand and by scikit-image."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import color, feature
from skimage.transform import ProjectiveTransform, warp

from digits.corruptions import CORRUPTIONS, _lines, _swaps, corrupt, dark_ground, glass_blur, plasma_fractal, zigzag
from digits.data import DigitsDataModule

INDEX = np.arange(40)


@pytest.fixture(scope="module")
def images(sample: DigitsDataModule) -> np.ndarray:
    return sample.splits.test.images[:40].numpy()


def corrupted(name: str, images: np.ndarray, dark: bool = True) -> np.ndarray:
    return corrupt(name, CORRUPTIONS[name], images, np.arange(len(images)), dark=dark)


def plain(value: float, count: int = 40) -> np.ndarray:
    return np.full((count, 1, 28, 28), round(255 * value), np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_whatever_the_batch(images: np.ndarray, name: str) -> None:
    all_of_them = corrupted(name, images)
    assert (all_of_them.dtype, all_of_them.shape) == (np.uint8, images.shape)
    assert (all_of_them != images).any(axis=(1, 2, 3)).all()
    some = [33, 2]
    assert np.array_equal(corrupt(name, CORRUPTIONS[name], images[some], some), all_of_them[some])
    if name not in ("scale", "brightness", "stripe", "canny_edges"):  # which draw nothing
        other = corrupt(name, CORRUPTIONS[name], images, INDEX, seed=1)
        assert not np.array_equal(other, all_of_them)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 16), (1, 8, 8)])
def test_other_sizes_and_colours(name: str, shape: tuple[int, ...]) -> None:
    found = corrupted(name, np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8))
    assert found.shape == (4, *shape)


def test_shot_noise_counts_three_photons() -> None:
    assert not corrupted("shot_noise", plain(0)).any()
    found = corrupted("shot_noise", plain(2 / 3))
    assert set(np.unique(found)) == {0, 85, 170, 255}
    assert (found == 0).mean() == pytest.approx(np.exp(-2), abs=0.01)  # of Poisson(2)
    assert (found == 85).mean() == pytest.approx(2 * np.exp(-2), abs=0.01)


def test_impulse_noise_is_salt_and_pepper() -> None:
    found = corrupted("impulse_noise", plain(0.4))
    assert set(np.unique(found)) == {0, 102, 255}
    assert [(found == value).mean() for value in (0, 255)] == pytest.approx([0.085, 0.085], abs=0.005)


def test_glass_blur_by_a_loop_over_pixels(images: np.ndarray) -> None:
    image = images[7, 0] / 255
    expected = np.uint8(gaussian_filter(image, 0.7, mode="nearest") * 255)
    swaps = iter(_swaps(np.random.default_rng(3), 1, 2 * 26 * 26))
    for _ in range(2):
        for row in range(27, 1, -1):
            for column in range(27, 1, -1):
                up, left = next(swaps)
                there = (row - up, column - left)
                expected[row, column], expected[there] = expected[there], expected[row, column]
    found = glass_blur(image[None, None], [np.random.default_rng(3)], dark=True)
    assert found[0, 0] == pytest.approx(gaussian_filter(expected / 255, 0.7, mode="nearest"), abs=1e-6)


def test_half_of_the_pixels_are_swapped_with_one_above_or_to_the_left() -> None:
    swaps = _swaps(np.random.default_rng(0), 1, 20_000)
    assert set(np.unique(swaps)) == {0, 1}
    assert (swaps == 1).mean() == pytest.approx(0.25, abs=0.01)


def test_motion_blur_of_a_point() -> None:
    point = plain(0)
    point[:, 0, 14, 14] = 255
    found = corrupted("motion_blur", point) / 255
    assert found[:, 0, 14, 14] == pytest.approx(1 / np.exp(-(np.arange(21) ** 2) / 18).sum(), abs=0.003)
    rows, columns = np.nonzero(found.sum(axis=(0, 1)))
    assert columns.max() == 14  # to one side
    assert (np.abs(rows - 14) <= np.abs(columns - 14)).all()  # within 45 degrees
    assert set(np.sign(rows - 14)) == {-1, 0, 1}
    assert found.sum(axis=(1, 2, 3)) == pytest.approx(1, abs=0.05)  # but for rounding


C, S = np.cos(0.4), np.sin(0.4)
AFFINE = {  # of x and y, from the result to the image; the first sign
    "shear": [[[1, -S], [0, C]], [[1, S], [0, C]]],
    "rotate": [[[C, -S], [S, C]], [[C, S], [-S, C]]],
    "scale": [[[1 / 0.7, 0], [0, 1 / 0.7]]],
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_corruptions_by_scikit_image(images: np.ndarray, name: str) -> None:
    found = corrupted(name, images)[:, 0] / 255
    matches = []
    for matrix in np.array(AFFINE[name]):
        whole = np.eye(3)
        whole[:2, :2], whole[:2, 2] = matrix, (np.eye(2) - matrix) @ [13.5, 13.5]
        expected = [warp(image[0] / 255, inverse_map=ProjectiveTransform(whole)) for image in images]
        matches.append(np.abs(found - expected).max(axis=(1, 2)) < 0.01)
    assert np.logical_or.reduce(matches).all()
    assert all(match.sum() > 5 for match in matches)


def test_translate_moves_by_three_pixels_each_way(images: np.ndarray) -> None:
    found = corrupted("translate", images)
    padded = np.pad(images, ((0, 0), (0, 0), (3, 3), (3, 3)))
    corners = [padded[:, :, row : row + 28, column : column + 28] for row in (0, 6) for column in (0, 6)]
    matches = np.array([(found == corner).all(axis=(1, 2, 3)) for corner in corners])
    assert (matches.sum(axis=0) == 1).all()
    assert matches.any(axis=1).all()


def test_brightness_by_scikit_image() -> None:
    assert [corrupted("brightness", plain(v)).max() for v in (0, 0.2, 1)] == [128, 178, 255]
    colours = np.random.default_rng(0).integers(0, 256, (5, 3, 28, 28), dtype=np.uint8)
    colours[0, :, 0, 0] = 0
    hsv = color.rgb2hsv(colours / 255, channel_axis=1)
    hsv[:, 2] = (hsv[:, 2] + 0.5).clip(0, 1)
    expected = color.hsv2rgb(hsv, channel_axis=1) * 255
    assert np.abs(corrupted("brightness", colours) - expected).max() <= 0.6


def test_stripe_inverts_seven_columns_on_either_side(images: np.ndarray) -> None:
    found = corrupted("stripe", images)
    assert np.array_equal(found[..., 7:21], images[..., 7:21])
    assert np.array_equal(found[..., :7], 255 - images[..., :7])
    assert np.array_equal(found[..., 21:], 255 - images[..., 21:])


def test_a_height_map_of_four_points_by_hand() -> None:
    a, b, c = 2 * np.random.default_rng(5).random(3, dtype=np.float32) - 1
    heights = np.array([[0, a / 2 + b], [a / 2 + c, a]])  # the centre is the mean of 4 × 0, the edges' of 0, 0, a, a
    expected = (heights - heights.min()) / np.ptp(heights)
    assert plasma_fractal([np.random.default_rng(5)], 2, 1.4)[0] == pytest.approx(expected, abs=1e-6)


def test_fog_adds_and_scales_back() -> None:
    assert not corrupted("fog", plain(0)).any()  # its brightest pixel is 0
    found = corrupted("fog", plain(1)) / 255  # (1 + 3 p) / 4
    assert 0.25 <= found.min() < found.max() <= 1
    half = corrupted("fog", plain(0.5)) / 255  # (0.5 + 3 p) · 0.5 / 3.5, of the same p
    p = (4 * found - 1) / 3
    assert half == pytest.approx((128 / 255 + 3 * p) * (128 / 255) / (128 / 255 + 3), abs=0.005)


def test_spatter_is_grey_mud() -> None:
    found = corrupted("spatter", plain(1))
    untouched, mud = found == 255, found <= 255 - round(0.8 * (255 - 63)) + 1
    assert (untouched | mud).all()  # softer than 0.8 is none
    assert found.min() == 63
    assert 0.1 < mud.mean() < 0.5


def test_lines_have_soft_edges() -> None:
    line = _lines(np.array([[0, 10, 27, 10]]), 28)[0, 0]
    assert line[8:13, 5] == pytest.approx([0, 1 + np.log(1 - 1 / 2.3), 1, 1 + np.log(1 - 1 / 2.3), 0])
    assert line[10, 26] == 1
    assert line[10, 27] == 0


def test_dotted_line_on_black() -> None:
    found = corrupted("dotted_line", plain(0))[:, 0]
    dashes = np.arange(28) // 2 % 2 == 1
    assert not found[..., ~dashes].any()
    assert (found[..., dashes].max(axis=1)[:, :-1] > 150).all()  # its last column is left out


class Drawn:
    """Gives these numbers."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = iter(numbers)

    def integers(self, low: int, high: int) -> int:
        return next(self.numbers)


def test_zigzag_by_hand() -> None:
    """From row 13, level: corners at columns 4, 8, ..., 24, by turns at rows 15 and 11."""
    found = zigzag(np.zeros((1, 1, 28, 28)), [Drawn(13, 0)], dark=True)[0, 0]
    assert [found[15, column] for column in (4, 12, 20)] == pytest.approx([1, 1, 1])
    assert [found[11, column] for column in (8, 16, 24)] == pytest.approx([1, 1, 1])
    assert found[13, [2, 6, 10, 14, 18, 22]] == pytest.approx(1)
    assert not found[:, :2].any()
    assert not found[:, 25:].any()
    assert not found[:9].any()


def test_canny_edges_by_scikit_image(images: np.ndarray) -> None:
    found = corrupted("canny_edges", images)
    for image, edges in zip(images, found, strict=True):
        assert np.array_equal(edges[0], 255 * feature.canny(image[0] / 255))


def test_on_a_light_ground(images: np.ndarray) -> None:
    assert dark_ground(images)
    assert not dark_ground(255 - images)
    assert corrupted("rotate", 255 - images, dark=False)[:, 0, [0, -1], [0, -1]].min() > 200
    assert corrupted("dotted_line", plain(1), dark=False).min() < 100
