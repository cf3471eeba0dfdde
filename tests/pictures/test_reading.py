"""From found marks to an answer: text, words, promises about the input, and certainty."""

import numpy as np
import pytest
from PIL import Image
from sheets import page, picture

from digits.model_facts import DIGITS, ModelFacts
from digits.pictures import reader
from digits.pictures.normal_form import Found
from digits.pictures.reader import ImageClassifier, Prediction, Reading, as_promised, certainty

MNIST = ModelFacts("mnist", DIGITS, 28, 1, [0.1307], [0.3081], 20 / 28, "mass", True)


def mark(label: str, line: int = 0, left: int = 0, side: int = 20, rejected: bool = False) -> Prediction:
    return Prediction(
        label=label,
        probability=0.1 if rejected else 0.97,
        runner_up="8",
        runner_up_probability=0.01,
        probabilities={},
        image=np.zeros((1, 28, 28), np.uint8),
        box=(left, 30 * line, left + side, 30 * line + side),
        rejected=rejected,
        separator=not label.isalnum(),
        line=line,
    )


def answering(*classes: int) -> ImageClassifier:
    """A classifier that answers with the class that is the value of an image's first pixel."""

    def logits(images: np.ndarray) -> np.ndarray:
        return 12.0 * np.eye(10)[images[:, 0, 0, 0] % 10]

    return ImageClassifier(logits, MNIST)


def found(first: int, again: int | None = None, clearness: float | None = 0.9, line: int = 0) -> Found:
    image = np.full((1, 28, 28), first, np.uint8)
    return Found(
        image=image,
        box=(0, 0, 10, 10),
        line=line,
        clearness=clearness,
        again=None if again is None else np.full_like(image, again),
    )


def test_text_is_line_by_line_with_signs_and_question_marks() -> None:
    marks = [mark("-"), mark("7"), mark("."), mark("5"), mark("2", 1), mark("4", 1, rejected=True), mark("3", 2)]
    reading = Reading(marks)
    assert reading.text == "-7.5\n2?\n3"
    assert [one.label for one in reading.answers] == ["7", "5", "2", "3"]
    assert Reading([mark("-"), mark("A", 1, rejected=True)]).text == ""
    assert Reading([mark("cat"), mark("dog")]).text == "cat dog"


def test_one_digit_of_several_is_said() -> None:
    marks = [mark("1", side=9), mark("2", left=30, side=40), mark("9", left=80, side=60, rejected=True)]
    reading = as_promised(marks, "digit", "digit")
    assert [one.label for one in reading.marks] == ["2"]
    assert reading.note == "2 digits found, and the largest answered: mode=auto reads them all"
    assert as_promised(marks[:1], "digit", "digit").note == ""


def test_two_lines_read_as_one_are_said() -> None:
    marks = [mark("1", 0, 50), mark("2", 1, 10)]
    reading = as_promised(marks, "line", "digit")
    assert reading.text == "21"
    assert "2 lines found" in reading.note
    assert as_promised(marks, "auto", "digit").text == "1\n2"


def test_there_is_a_reason_where_there_is_no_answer() -> None:
    assert "blank" in as_promised([], "auto", "digit").reason
    assert (
        as_promised([mark("7", rejected=True)], "auto", "digit").reason == "no digit: it looks like none of the classes"
    )
    assert as_promised([mark("-")], "auto", "digit").reason == "no digit: a sign alone"
    assert as_promised([mark("7")], "auto", "digit").reason == ""


def test_an_o_in_a_word_is_no_zero() -> None:
    word = [mark("4", rejected=True), mark("0"), mark("-"), mark("6", rejected=True)]
    number = [mark("1", 1), mark("9", 1, rejected=True)]
    marks = reader._words_rejected([*word, *number])
    assert [one.rejected for one in marks] == [True, True, False, True, False, True]


def test_certainty_is_a_logistic_function_of_two_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CERTAINTY", (-2.0, 4.0, 1.5))
    marks = [found(3, again=3), found(3, again=5), found(3), found(3, clearness=None)]
    expected = [1 / (1 + np.exp(-(-2 + 4 * 0.9 + again))) for again in (1.5, 0, 0)]
    np.testing.assert_allclose(certainty(answering(), marks, np.full(4, 3)), [*expected, 1])
    [first, *_, last] = answering().answer(marks).marks
    assert first.label == "3"
    assert first.probability == pytest.approx(expected[0], rel=1e-4)
    assert last.probability == pytest.approx(1, rel=1e-3)


def test_a_picture_is_found_and_answered() -> None:
    classifier = answering()
    sheet = picture(page((520, 60, 40, 40), (1020, 60, 140, 44), (2020, 60, 60, 180)))
    marks = classifier.find(sheet)
    assert [one.line for one in marks] == [0, 0, 1]
    assert classifier.read(sheet).marks[0].box == marks[0].box
    assert classifier.read(Image.new("L", (300, 200), 255)).reason == as_promised([], "auto", "digit").reason
    assert len(classifier.predict_line(sheet)) == 3
    assert classifier.predict(sheet).box == max(marks, key=lambda one: one.box[2] - one.box[0]).box
