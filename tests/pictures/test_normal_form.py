"""From any picture to MNIST's normal form: polarity, light, dirt, several digits, and no digit."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarks.preprocessing import error_rate, normal, pages, plain
from fakes import form_of
from PIL import Image
from scipy import ndimage
from sheets import MNIST_FORM, digit, ink, likeness, page, picture

from digits.data.datasets import Mnist
from digits.pictures.decode import read_picture
from digits.pictures.normal_form import NothingFoundError, find_image, find_images
from digits.pictures.reader import load_classifier


def photo(values: np.ndarray, light: np.ndarray | float = 1, noise: float = 0.02) -> bytes:
    """As a telephone takes it: uneven light, out of focus, noisy, JPEG."""
    seen = ndimage.gaussian_filter(values * light, 1) + np.random.default_rng(0).normal(0, noise, values.shape)
    file = io.BytesIO()
    picture(seen).save(file, "JPEG", quality=80)
    return file.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    return np.linspace(1, 0.45, width)[None] * np.linspace(1, 0.8, height)[:, None]


def shadow(height: int, width: int) -> np.ndarray:
    """The right half in the shadow of a hand."""
    return ndimage.gaussian_filter(np.where(np.arange(width) > width / 2, 0.55, 1.0)[None].repeat(height, 0), 4)


# The normal form


@pytest.mark.parametrize("dark", [True, False])
def test_it_is_boxed_scaled_and_centred(dark: bool) -> None:
    for number in range(3, 5000, 250):
        sheet = page((number, 90, 230, 40))
        found = find_image(picture(sheet if dark else 1 - sheet), MNIST_FORM)
        assert found.image.shape == (1, 28, 28)
        assert found.image.dtype == np.uint8
        rows, columns = np.nonzero(found.image[0])
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        # To the pixel; MNIST's own are as close.
        np.testing.assert_allclose(ndimage.center_of_mass(found.image[0]), 14, atol=0.51)
        assert found.image.max() == 255
        assert likeness(found.image, number) > 0.55
        inked = np.nonzero(sheet < 0.9)
        expected = (inked[1].min(), inked[0].min(), inked[1].max() + 1, inked[0].max() + 1)
        np.testing.assert_allclose(found.box, expected, atol=5)


def test_mnist_stays_as_it_is() -> None:
    stay = 0
    for number in range(0, 5000, 100):
        again = find_image(Image.fromarray(digit(number)), MNIST_FORM).image
        before, after = (ndimage.center_of_mass(image) for image in (digit(number), again[0]))
        np.testing.assert_allclose(after, before, atol=1.01)
        assert likeness(again, number) > 0.8  # some move by a pixel
        twice = find_image(Image.fromarray(again[0]), MNIST_FORM).image
        stay += np.array_equal(twice, again)
    assert stay >= 45  # of 50


def test_forms_of_the_data_sets() -> None:
    sheet = picture(page((2000, 120, 30, 30)))
    for dataset, size, longer in (("mnist5k", 28, 20), ("qmnist", 28, 20), ("emnist", 28, 24), ("usps", 16, 16)):
        image = find_image(sheet, form_of(dataset, size, 1)).image[0]
        rows, columns = np.nonzero(image)
        assert image.shape == (size, size)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == longer
        if dataset in ("emnist", "usps"):
            assert abs(rows.min() + rows.max() + 1 - size) <= 1
            assert abs(columns.min() + columns.max() + 1 - size) <= 1


def test_without_a_normal_form_it_is_the_whole_picture() -> None:
    colours = Image.new("RGB", (60, 30), (10, 200, 90))
    [found] = find_images(colours, form_of("image_folder", 28, 3))
    assert found.image.shape == (3, 28, 28)
    assert (found.image == np.array([10, 200, 90]).reshape(3, 1, 1)).all()
    assert found.box == (0, 0, 60, 30)
    # Fashion-MNIST is light on dark; a picture on white is turned.
    boot = 255 - digit(7)
    assert np.array_equal(find_image(Image.fromarray(boot), form_of("fashion_mnist", 28, 1)).image[0], digit(7))
    assert np.array_equal(find_image(Image.fromarray(boot), form_of("image_folder", 28, 1)).image[0], boot)


# Light, ink and dirt


@pytest.mark.parametrize("light", [gradient, shadow])
@pytest.mark.parametrize("reflection", [0.1, 0.55])
def test_uneven_light(light: Callable, reflection: float) -> None:
    """A pen and a pencil."""
    for number in (20, 1020, 2520, 4020):
        sheet = 0.9 - (0.9 - reflection) * (1 - page((number, 130, 60, 80), size=(480, 360)))
        found = find_image(read_picture(photo(sheet, light(360, 480))), MNIST_FORM)
        assert likeness(found.image, number) > 0.55


def test_chalk_on_a_board() -> None:
    board = 0.15 + 0.6 * (1 - page((2520, 130, 150, 80)))
    assert likeness(find_image(read_picture(photo(board, gradient(300, 400))), MNIST_FORM).image, 2520) > 0.8


@pytest.mark.parametrize("light", [None, gradient, shadow])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_blank_page_has_no_digit(light: Callable | None, noise: float) -> None:
    blank = np.full((360, 480), 0.9)
    if light and not noise:
        pytest.skip("a camera has noise")
    seen = read_picture(photo(blank, light(360, 480) if light else 1, noise))
    assert find_images(seen, MNIST_FORM) == []
    with pytest.raises(NothingFoundError, match="no digit found") as error:
        find_image(seen, MNIST_FORM)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (28, 28), (2000, 3)])
def test_picture_of_one_colour_has_no_digit(size: tuple[int, int]) -> None:
    for grey in (0, 128, 255):
        with pytest.raises(NothingFoundError, match="no digit found"):
            find_image(Image.new("L", size, grey), MNIST_FORM)


def test_specks_are_left_out() -> None:
    sheet = page((3500, 120, 200, 100))
    clean = find_image(picture(sheet), MNIST_FORM)
    for x, y in np.random.default_rng(0).integers(0, 290, (40, 2)):
        if not (190 < x < 340 and 90 < y < 230):
            sheet[y : y + 2, x : x + 2] = 0
    dirty = find_image(picture(sheet), MNIST_FORM)
    np.testing.assert_allclose(dirty.box, clean.box, atol=4)
    assert likeness(dirty.image, 3500) > 0.8
    assert len(find_images(picture(sheet), MNIST_FORM)) == 1


def test_coloured_ink_on_coloured_paper() -> None:
    share = (1 - page((1020, 120, 150, 60)))[..., None]
    for pen, paper, least in [
        ((255, 225, 0), (255, 255, 255), 0.85),
        ((200, 30, 40), (255, 240, 130), 0.85),
        ((0, 150, 0), (200, 60, 60), 0.6),  # as light as its paper
    ]:
        seen = Image.fromarray((np.array(pen) * share + np.array(paper) * (1 - share)).astype(np.uint8))
        assert likeness(find_image(seen, MNIST_FORM).image, 1020) > least


def test_thin_pen_stays_visible() -> None:
    from skimage.morphology import skeletonize

    line = skeletonize(ink(1520, 280) > 0.5)
    sheet = np.ones((400, 400))
    sheet[60:340, 40 : 40 + line.shape[1]][line] = 0
    image = find_image(picture(sheet), MNIST_FORM).image[0]
    assert 30 < np.count_nonzero(image > 127) < 150  # MNIST's have about 100
    assert likeness(image, 1520) > 0.6


# Strokes that do not touch, and several digits


def five(sheet: np.ndarray, left: int) -> None:
    """A 5 whose bar does not touch, of about 100 pixels' height."""
    rows, columns = np.mgrid[:100, :80]
    ring = np.abs(np.hypot(rows - 68, columns - 34) - 24) < 5
    sheet[60:160, left : left + 80][ring & (columns > 20)] = 0
    sheet[80:110, left + 14 : left + 24] = 0
    sheet[60:70, left + 14 : left + 64] = 0


def test_strokes_that_do_not_touch_are_one_digit() -> None:
    sheet = np.ones((220, 300))
    five(sheet, 100)
    _, count = ndimage.label(sheet == 0, np.ones((3, 3)))
    assert count > 1
    rows, columns = np.nonzero(sheet == 0)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    [found] = find_images(picture(sheet), MNIST_FORM)
    np.testing.assert_allclose(found.box, expected, atol=4)


def test_a_line_is_read_from_left_to_right() -> None:
    numbers = [4520, 20, 1520, 3020, 2020]
    places = [(number, 60 + 4 * i, 40 + 110 * i, 60 + 7 * (i % 3)) for i, number in enumerate(numbers)]
    sheet = page(*places, size=(640, 200))
    sheet[95:101, 125:145] = 0  # a hyphen
    sheet[125:130, 250:255] = 0  # a full stop
    photograph = read_picture(photo(0.9 * sheet, gradient(200, 640)))
    for seen in (picture(sheet), picture(1 - sheet), photograph):
        found = find_images(seen, MNIST_FORM)
        # In the photograph, the full stop is as good as dirt.
        signs = "".join(one.separator or "5" for one in found)
        assert signs == "5-5.555" or (seen is photograph and signs == "5-5555")
        digits = [one for one in found if not one.separator]
        for one, number, (_, height, left, top) in zip(digits, numbers, places, strict=True):
            assert likeness(one.image, number) > 0.7
            np.testing.assert_allclose(one.box[:2], (left, top), atol=5)
            assert abs(one.box[3] - top - height) <= 5


# What it is for


def test_errors_on_other_peoples_digits_are_at_least_halved(trained: Path) -> None:
    classifier = load_classifier(trained / "checkpoints" / "best.ckpt")
    scans, target = (part[::6] for part in pages())
    normalised = error_rate(classifier, np.stack([normal(scan, classifier.form) for scan in scans]), target)
    recipe = np.stack([plain(scan, 28) for scan in scans])
    assert normalised <= error_rate(classifier, recipe, target) / 2
    assert normalised < 0.7 * error_rate(classifier, 255 - recipe, target)  # its polarity is not the only difference


def test_predictions_on_mnist_stay(trained: Path, sample) -> None:
    """Of the embedded sample's test images; all 10,000 of MNIST are below."""
    classifier = load_classifier(trained / "checkpoints" / "best.ckpt")
    test = sample.splits.test
    images, target = test.images.numpy(), test.target.numpy()
    again = np.stack([normal(Image.fromarray(image[0]), classifier.form) for image in images])
    assert abs(error_rate(classifier, images, target) - error_rate(classifier, again, target)) <= 0.005


@pytest.mark.slow
def test_accuracy_on_the_test_set_stays(trained: Path, mnist_root: Path) -> None:
    classifier = load_classifier(trained / "checkpoints" / "best.ckpt")
    _, test, *_ = Mnist(mnist_root).load()
    images, target = test.images.numpy(), test.target.numpy()
    again = np.stack([normal(Image.fromarray(image[0]), classifier.form) for image in images])
    assert abs(error_rate(classifier, images, target) - error_rate(classifier, again, target)) <= 0.001
