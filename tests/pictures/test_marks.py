"""From what the ink network says to marks: by hand, with answers of a network that are made up."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from digits.pictures import marks as marks_module
from digits.pictures.ink import CELL, SEPARATORS, View, pieces_of
from digits.pictures.marks import Mark, _joined_where_close, _judged, _lines, _marks, find_marks

Box = tuple[int, int, int, int]  # left, top, right, bottom


def view_of(*strokes: tuple[Box, tuple[int, int], str], side: int = 128, scale: float = 1.0) -> View:
    """What a network would say of strokes: each a bar of ink, the middle of its mark, and its separator or nothing."""
    cells = side // CELL
    ink, middle = np.zeros((side, side), np.float32), np.zeros((cells, cells), np.float32)
    offset, kinds = np.zeros((2, cells, cells), np.float32), np.zeros((1 + len(SEPARATORS), cells, cells), np.float32)
    centres = np.arange(cells) * CELL + (CELL - 1) / 2
    for (left, top, right, bottom), (x, y), separator in strokes:
        ink[top:bottom, left:right] = 1
        middle[y // CELL, x // CELL] = 1
        here = np.s_[top // CELL : -(-bottom // CELL), left // CELL : -(-right // CELL)]
        offset[0][here], offset[1][here] = (x - centres)[None, here[1]], (y - centres)[here[0], None]
        kinds[SEPARATORS.find(separator) + 1 if separator else 0][here] = 1
    matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    return View(matrix, ink, middle, offset, np.zeros_like(middle), kinds)


def boxes(marks: Sequence[Mark]) -> list[tuple[int, ...]]:
    return [tuple(round(side) for side in mark.box) for mark in marks]


def found(view: View) -> list[Mark]:
    return _marks(view, [_joined_where_close(line) for line in _lines(pieces_of(view))])


def test_strokes_that_point_at_one_middle_are_one_mark() -> None:
    """A 5 whose bar does not touch; and in a picture twice as small, so are the boxes."""
    five = [((40, 20, 72, 24), (56, 44), ""), ((40, 32, 72, 68), (56, 44), "")]
    [mark] = found(view_of(*five))
    assert boxes([mark]) == [(40, 20, 72, 68)]
    assert mark.ink.shape == (48, 32)
    assert mark.ink.sum() == 32 * 4 + 32 * 36
    assert boxes(found(view_of(*five, scale=2.0))) == [(20, 10, 36, 34)]


def test_marks_that_touch_are_parted() -> None:
    first, second = found(view_of(((20, 20, 48, 68), (34, 44), ""), ((48, 20, 76, 68), (62, 44), "")))
    assert boxes([first, second]) == [(20, 20, 48, 68), (48, 20, 76, 68)]
    assert first.ink.shape == second.ink.shape == (48, 28)


def test_lines_from_top_to_bottom_and_their_signs() -> None:
    marks = found(
        view_of(
            ((60, 80, 80, 112), (70, 96), ""),
            ((20, 84, 40, 116), (30, 100), ""),  # a little lower, on the same line
            ((48, 104, 52, 108), (50, 106), "."),
            ((20, 20, 40, 52), (30, 36), ""),
            ((100, 34, 116, 38), (108, 36), "-"),  # too far away from anything
        )
    )
    assert [(mark.line, mark.separator) for mark in marks] == [(0, ""), (1, ""), (1, "."), (1, "")]
    assert boxes(marks)[1:] == [(20, 84, 40, 116), (48, 104, 52, 108), (60, 80, 80, 112)]


def test_points_separate_characters() -> None:
    """At the ends of a line they are dirt; a minus sign is not."""
    marks = found(
        view_of(
            ((8, 100, 12, 104), (10, 102), "."),
            ((20, 68, 36, 108), (28, 88), ""),
            ((40, 100, 44, 104), (42, 102), "."),
            ((52, 68, 68, 108), (60, 88), ""),
            ((72, 100, 76, 108), (74, 104), ","),
            ((4, 28, 20, 32), (12, 30), "-"),
            ((28, 8, 44, 48), (36, 28), ""),
        )
    )
    assert [(mark.line, mark.separator) for mark in marks] == [(0, "-"), (0, ""), (1, ""), (1, "."), (1, "")]


def test_what_has_not_the_size_of_a_sign_is_none() -> None:
    marks = found(
        view_of(
            ((20, 68, 36, 108), (28, 88), ""),
            ((40, 86, 48, 90), (44, 88), "-"),  # as short as a point: dirt
            ((52, 68, 68, 108), (60, 88), ""),
            ((72, 84, 76, 92), (74, 88), ":"),  # as low as a point
            ((80, 68, 112, 108), (96, 88), "+"),  # as large as a 4
            ((116, 80, 120, 108), (118, 94), "."),  # as tall as a small 1
            ((124, 68, 140, 108), (132, 88), ""),
            side=160,
        )
    )
    assert [mark.separator for mark in marks] == [""] * 5
    assert boxes(marks)[2:4] == [(80, 68, 112, 108), (116, 80, 120, 108)]


def test_a_mark_that_one_look_alone_sees_needs_some_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that the first look takes for a mark is none to the second one; ink that is there stays."""
    for size, expected in ((4, 0), (16, 1)):
        first = view_of(((40, 40, 40 + size, 40 + size), (40 + size // 2, 40 + size // 2), ""))
        views = [first, first, view_of()]  # at two scales; then nothing
        monkeypatch.setattr(marks_module, "look", lambda *_, views=views: views.pop(0))
        assert len(find_marks(Image.new("L", (128, 128)))) == expected


def test_dirt_and_faint_ink_are_none() -> None:
    view = view_of(
        ((20, 20, 60, 100), (40, 60), ""), ((80, 40, 84, 44), (82, 42), ""), ((96, 20, 116, 100), (104, 60), "")
    )
    view.ink[:, 90:] *= 0.5
    assert boxes(found(view)) == [(20, 20, 60, 100)]


@pytest.mark.parametrize(("together", "expected"), [(0.9, 1), (0.2, 2)])
def test_the_judge_decides_on_pieces_that_touch(together: float, expected: int) -> None:
    """Two halves of a 0, or two 1s beside each other."""
    view = view_of(((20, 20, 36, 68), (28, 44), ""), ((36, 20, 52, 68), (44, 44), ""))
    asked: list[int] = []

    def judge(marks: Sequence[Mark]) -> np.ndarray:
        asked.extend(mark.ink.shape[1] for mark in marks)
        return np.array([together if mark.ink.shape[1] > 20 else 0.6 for mark in marks])

    [line] = _judged(view, _lines(pieces_of(view)), judge)
    assert len(line) == expected
    assert sorted(asked) == [16, 16, 32]


def test_the_judge_is_not_asked_without_need() -> None:
    view = view_of(((8, 20, 36, 68), (22, 44), ""), ((80, 20, 108, 68), (94, 44), ""))
    lines = _lines(pieces_of(view))
    assert _judged(view, lines, lambda _: pytest.fail("asked")) == lines


def test_nothing() -> None:
    assert pieces_of(view_of()) == []
    assert _lines([]) == []
