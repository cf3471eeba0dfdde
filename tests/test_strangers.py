"""Strangers: in the form of the data's images, and none of its classes."""

import numpy as np
import pytest

from digits.data import DigitsDataModule
from digits.data.dataset import Form
from digits.strangers import DIGITS, LETTERS, OF_CHARACTERS, OF_STROKES, SIGNS, WHOLE, Strangers, strange_characters

MNIST = Form(28, 1, 20, "mass", True)


def test_characters_that_are_no_class() -> None:
    to_digits = strange_characters(list(DIGITS), LETTERS + DIGITS)
    assert not set(to_digits) & set(DIGITS + "OoIlq")
    assert {"A", "Z", "S", "B", "g", "b", "x"} <= set(to_digits)
    assert to_digits.count("A") > to_digits.count("S") == 1  # which is nearly a 5
    to_letters = strange_characters([chr(ord("a") + i) for i in range(26)], LETTERS + DIGITS)
    assert set(to_letters) == set("2345678")  # 0, 1, 9 are nearly o, l, q; a capital is the same letter
    assert "|" not in strange_characters(list(DIGITS), SIGNS)


@pytest.mark.parametrize("name", ["digits", "letters"])
def test_they_fit_into_the_box_and_are_centred(name: str, sample: DigitsDataModule) -> None:
    form = MNIST if name == "digits" else Form(28, 1, 24, "box", True)
    names = list(DIGITS) if name == "digits" else list("abcdefgh")
    source = Strangers(sample.splits.train.images.numpy(), names, form)
    rng = np.random.default_rng(0)
    for kind in source.kinds:
        images = source.draw(8, rng, [kind])
        assert images.shape == (8, 1, 28, 28)
        assert images.dtype == np.uint8
        if kind in WHOLE:
            continue
        for image in images[:, 0]:
            rows, columns = np.flatnonzero((image > 60).any(axis=1)), np.flatnonzero((image > 60).any(axis=0))
            sides = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            assert max(sides) <= form.fit + 2, kind
            if form.centre == "mass":
                y, x = (np.average(np.arange(28), weights=image.sum(axis=axis) + 1e-9) for axis in (1, 0))
                inside = rows[0] > 0 and rows[-1] < 27 and columns[0] > 0 and columns[-1] < 27
                assert not inside or (abs(y - 14) < 1.5 and abs(x - 14) < 1.5), kind


def test_pictures_without_a_form() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 3, 40, 40), dtype=np.uint8)
    source = Strangers(images, ["cat", "dog"], Form(40, 3, None, None, False))
    assert not set(source.kinds) & set(OF_CHARACTERS + OF_STROKES)  # a picture of a letter could be of the class "a"
    assert "shuffled" in source.kinds
    drawn = source.draw(60, rng)
    assert drawn.shape == (60, 3, 40, 40)
    assert (drawn.reshape(60, -1).std(axis=1) > 0).mean() > 0.8


def test_the_same_random_numbers_draw_the_same(sample: DigitsDataModule) -> None:
    source = Strangers(sample.splits.train.images.numpy(), list(DIGITS), MNIST)
    first, second = (source.draw(60, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert len(np.unique(first.reshape(60, -1), axis=0)) == 60
