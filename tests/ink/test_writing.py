"""How lines are written on a page: what is said of them fits what was written."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from digits.data.datasets import Mnist5k
from digits.ink.marks import SEPARATORS
from digits.ink.writing import Hand, Layers, _with_signs, _write_line


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return Mnist5k().load().train.images[:, 0].numpy()


def steady(**changes: object) -> Hand:
    hand = Hand(pen=1, varies=False, font=None, others=0, gap=0.2, unsteady=0, slope=0, slender=0)
    return replace(hand, **changes)


def written(text: str, digits: np.ndarray, hand: Hand) -> Layers:
    layers = Layers(600)
    # With this seed, no mark of the line is written small.
    _write_line(layers, digits, np.random.default_rng(1), hand, text, (40.0, 200.0), 60.0)
    return layers


@pytest.mark.parametrize("font", [None, "DejaVuSans"])
def test_a_line_has_the_marks_of_its_text(font: str | None, digits: np.ndarray) -> None:
    layers = written("##.#-#", digits, steady(font=font))
    assert [SEPARATORS[kind - 1] if kind else "#" for kind in layers.kinds[1:]] == list("##.#-#")
    lefts = [box[0] for box in layers.boxes]
    assert lefts == sorted(lefts)
    assert len(np.unique(layers.labels)) == 7
    point, minus = layers.boxes[2], layers.boxes[4]
    assert point[3] == pytest.approx(260, abs=4)  # at the foot of the line
    assert (minus[1] + minus[3]) / 2 == pytest.approx(230, abs=8)  # at half its height


def test_digits_of_a_line_stand_as_high_and_far_apart_as_said(digits: np.ndarray) -> None:
    for gap in (-0.2, 0.5):
        boxes = written("#####", digits, steady(gap=gap)).boxes
        assert {box[3] - box[1] for box in boxes} == {60}
        apart = [after[0] - before[2] for before, after in itertools.pairwise(boxes)]
        assert np.mean(apart) == pytest.approx(60 * gap, abs=15)


def test_slender_digits_are_narrow(digits: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    ratios = [
        np.median([mark.clean.shape[1] / mark.clean.shape[0] for mark in marks])
        for marks in ([steady(slender=share).mark(digits, rng) for _ in range(40)] for share in (0, 1))
    ]
    assert ratios[1] < 0.6 * ratios[0]


def test_signs_are_written_as_people_write_them() -> None:
    rng = np.random.default_rng(0)
    lines = [_with_signs(int(rng.integers(2, 8)), rng) for _ in range(400)]
    assert set("".join(lines)) == {"#", *SEPARATORS}
    numbers = [line for line in lines if sum(sign in line for sign in ".,") == 1 and set(line) <= set("#.,")]
    assert len(numbers) > 60
    assert all(line.count("#") <= 12 for line in lines)
