"""Characters: in all fonts, as no two look alike, and what cannot be drawn."""

import numpy as np
import pytest

from digits import glyphs
from digits.data.dataset import Form

MNIST = Form(28, 1, 20, "mass", True)


def test_every_font_has_the_digits_and_letters() -> None:
    for font in glyphs.FONTS:
        assert glyphs.characters_of(font) >= set("0123456789ABCxyz")
        ink = glyphs.glyph("8", font)
        assert ink.dtype == np.uint8
        assert ink[0].any()
        assert ink[-1].any()
        assert ink[:, 0].any()
        assert ink[:, -1].any()


def test_what_can_be_typed() -> None:
    assert glyphs.can_be_typed(list("0123456789"))
    assert not glyphs.can_be_typed(["0", "ten"])
    assert not glyphs.can_be_typed(["\U000131cb"])  # a hieroglyph


@pytest.mark.parametrize("draw", [glyphs.typed, glyphs.in_a_font, glyphs.by_a_pen])
def test_images_of_characters(draw) -> None:
    names, examples = list("0147"), np.zeros((1, 1, 28, 28), np.uint8)
    images, target = glyphs.character_images(names, 40, draw, MNIST, examples, np.random.default_rng(0))
    assert images.shape == (40, 1, 28, 28)
    assert np.bincount(target).tolist() == [10] * 4
    assert len(np.unique(images.reshape(40, -1), axis=0)) == 40
    assert images.max(axis=(1, 2, 3)).min() > 150


def test_a_one_has_several_forms() -> None:
    rng = np.random.default_rng(0)
    widths = {round(ink.shape[1] / ink.shape[0], 1) for ink in (glyphs.typed("1", rng) for _ in range(60))}
    assert min(widths) <= 0.2  # a bar
    assert max(widths) >= 0.5  # with flag and base


def test_without_a_form_it_lies_on_the_ground_of_an_example() -> None:
    example, ink = np.full((3, 40, 40), 200, np.uint8), glyphs.glyph("A", "DejaVuSans")
    image = glyphs.in_form(ink, Form(40, 3, None, None, False), example, np.random.default_rng(0))
    assert image.shape == (3, 40, 40)
    assert np.median(image) == 200
    assert image.min() < 110
