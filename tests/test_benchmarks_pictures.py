"""The benchmark of pictures: its pictures are what their labels say, and its measures agree with hand calculations."""

import csv
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import pictures as bench
from benchmarks.handwriting import HOLES, LETTERS, SIGNS, SYMBOLS, Digits, Hand, Pen, drawn, render, traced
from benchmarks.pictures import Answers, Outcome
from benchmarks.scenes import NEWLINE, ROWS, draw
from PIL import Image
from skimage.measure import euler_number
from sklearn.metrics import accuracy_score
from torchmetrics.functional.classification import binary_calibration_error

from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.pictures.reader import load_classifier


@pytest.fixture(scope="module")
def digits(sample: DigitsDataModule) -> Digits:
    images = sample.splits.test
    return Digits(images.images.numpy()[:, 0], images.target.numpy())


def outcome(label: str, text: str, *answers: float, row: str = "blank", reader: str = "project") -> Outcome:
    names = re.sub(r"\D", "", text)
    read = Answers(text, list(zip(names, answers or [0.95] * len(names), strict=True)))
    return Outcome(reader, row, row, "a.jpg", label, read)


# The pictures


@pytest.mark.parametrize("row", ROWS)
def test_every_kind_draws_what_its_label_says(row: str, digits: Digits) -> None:
    for index, kind in enumerate(ROWS[row].kinds):
        picture = draw(row, index, 5, digits)
        assert picture.kind == kind
        with Image.open(BytesIO(picture.file)) as image:
            assert min(image.size) > 20
            assert max(image.size) <= 1600
            assert np.asarray(image.convert("L")).std() > 0.5
        lines = picture.text.split(NEWLINE)
        assert bool(picture.text) is (row != "none")
        match row:
            case "none":
                pass
            case "lines":
                assert 2 <= len(lines) <= 4
            case "two lines":
                assert len(lines) == 2
            case "line" | "touching" | "1000" | "11":
                assert re.fullmatch(r"\d{2,9}", picture.text)
            case "3.14":
                assert re.fullmatch(r"\d+\.\d+", picture.text)
            case "-7":
                assert re.fullmatch(r"-\d+", picture.text)
            case "boxes" | "screens" | "beside a word":
                assert picture.text.isdigit()
            case _:
                assert re.fullmatch(r"\d", picture.text)


def test_sums_add_up(digits: Digits) -> None:
    for index in (2, 5, 8, 11):
        first, second, result = draw("lines", index, 1, digits).text.split(NEWLINE)
        assert int(first) + int(second) == int(result)  # the sign stands before the second


def test_a_picture_depends_on_its_seed_alone(digits: Digits) -> None:
    first = draw("desk", 3, 1, digits)
    draw("blank", 0, 9, digits)
    assert draw("desk", 3, 1, digits) == first
    assert draw("desk", 3, 2, digits).file != first.file
    assert draw("desk", 6, 1, digits).file != first.file


@pytest.mark.parametrize("digit", range(10))
def test_traced_digits_keep_their_shape(digit: int, digits: Digits) -> None:
    """Drawn again with a pen as thick as MNIST's, they cover what MNIST's images cover, and no loop is lost."""
    for number in digits.by_class[str(digit)][:8]:
        glyph = traced(digits.images[number], digit)
        steady = Hand(0.0, 1.0, 0.0)
        ink, _ = render(np.random.default_rng(0), glyph, 140, Pen("round", (0, 0, 0), 0.03, 1.0, 0.0), steady)
        if glyph.scan is None:
            assert 1 - euler_number(ink > 0.5, 2) >= HOLES.get(digit, 0)
        y, x = np.nonzero(digits.images[number] > 100)
        taller = (np.ptp(y) + 1) / (np.ptp(x) + 1)
        assert ink.shape[0] / ink.shape[1] == pytest.approx(taller, rel=0.35) or taller > 3


def test_letters_and_signs_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    for strokes in (LETTERS | SYMBOLS | SIGNS).values():
        assert all(len(stroke.lstrip("~")) % 2 == 0 for stroke in strokes.split()), strokes
        ink, _ = render(rng, drawn(strokes, rng), 60, Pen("round", (0, 0, 0), 0.04), Hand.of(rng))
        assert ink.max() > 0.5
    assert not set("OoIlSsZzgqb") & set(LETTERS)  # digits look like that


# What counts


def test_what_is_right() -> None:
    assert outcome("7", "7").right
    assert not outcome("7", "1").right
    assert not outcome("7", "77").right
    assert not outcome("7", "").right
    assert outcome("", "").right
    assert not outcome("", "1").right
    assert outcome("12 / 345", "12 / 345").right
    assert outcome("12 / 345", "1 2/345".replace("/", " / ")).right
    assert not outcome("12 / 345", "12345").right
    assert not outcome("123", "1?3", 0.9, 0.9).right
    assert outcome("123", "??123").right
    assert outcome("3.14", "3,14").right
    assert not outcome("3.14", "314").right
    assert outcome("3.14", "314").digits_right
    assert outcome("-7", "−7").right
    assert not outcome("45 / +67 / 112", "45 / 67 / 112").right
    assert outcome("45 / +67 / 112", "45 / 67 / 112").digits_right
    assert not outcome("45 / +67 / 112", "4567 / 112").digits_right


def test_probability_of_a_picture() -> None:
    assert outcome("12", "12", 0.7, 0.9).probability == 0.7
    assert outcome("", "12", 0.7, 0.9).probability == 0.9
    assert outcome("12", "").probability == 0
    assert outcome("1234", "1284", 0.9, 0.8, 0.7, 0.6).false_mark == 0.7
    assert outcome("12", "12", 1, 1).false_mark == 0
    assert outcome("", "5", 0.4).false_mark == 0.4


def test_measures() -> None:
    found = [
        outcome("1", "1", 0.95),
        outcome("2", "3", 0.95),
        outcome("4", "9", 0.5),
        outcome("5", ""),
    ]
    assert bench.measures(found) == {"pictures": 4, "wrong": 75, "sure": 25, "digits wrong": 75}
    found += [outcome("", "", row="none"), outcome("", "6", 0.995, row="none"), outcome("", "6", 0.3, row="none")]
    whole = bench.overall(found)
    assert whole["one digit: no answer at all"] == 25
    assert whole["no digit: answered with p >= 0.9"] == pytest.approx(100 / 3)
    assert whole["no digit: answered at all"] == pytest.approx(200 / 3)
    assert whole["all: wrong with p >= 0.99"] == pytest.approx(100 / 7)
    # Two of 0.95, one of them right, and a wrong one of 0.5: |1 - 1.9| / 3 + 0.5 / 3
    assert whole["ECE of one digit"] == pytest.approx(100 * 1.4 / 3)
    assert whole["ECE of one digit, no answer as p = 0"] == pytest.approx(100 * 1.4 / 4)


def test_calibration_error_is_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(size=500)
    right = rng.uniform(size=500) < probability**2
    expected = binary_calibration_error(torch.tensor(probability), torch.tensor(right).int(), n_bins=15)
    assert bench.calibration_error(probability, right) == pytest.approx(float(expected), abs=1e-6)


def test_tables_name_what_is_to_be_reached() -> None:
    found = [outcome("1", "1"), outcome("-7", "7", row="-7"), outcome("", "7", 0.95, row="none")]
    rows = bench.table_of(found, ["project"])
    assert [row["project"] for row in rows] == ["0.0 % (0.0 %)", "100.0 % (100.0 %); digits 0.0 %", "100.0 % (100.0 %)"]
    assert [row["to reach"] for row in rows] == ["1 %", "", "3 %"]
    lines = bench.markdown(rows).splitlines()
    assert lines[0] == "| pictures | n | project | to reach |"
    assert len(lines) == 5


# From pictures to tables


def test_a_folder_is_measured(
    trained: Path, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `--save` writes, `--folder` reads, with the same outcome; and the naive recipe stands beside."""
    monkeypatch.setattr(bench, "mnist", lambda root: (digits.images, _targets(digits)))
    command = f"bench --ckpt {trained / 'checkpoints' / 'best.ckpt'} --readers project naive"
    first = f"{command} --rows blank none --per-row 2 --save {tmp_path / 'saved'} --json {tmp_path / 'a.json'}"
    again = f"{command} --folder {tmp_path / 'saved'} --json {tmp_path / 'b.json'} --markdown {tmp_path / 'b.md'}"
    for line in (first, f"{again} --contact-sheet {tmp_path / 'sheet.png'}"):
        monkeypatch.setattr("sys.argv", line.split())
        bench.main()
    assert "blank page; canvas" in capsys.readouterr().out
    before, after = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert before == after
    assert len(before) == 8
    with (tmp_path / "saved" / "labels.csv").open(newline="") as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["blank", "blank", "none", "none"]
    assert "| blank page; canvas | 2 |" in (tmp_path / "b.md").read_text()
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width == bench.ContactSheet.COLUMNS * bench.ContactSheet.WIDTH


def _targets(digits: Digits) -> np.ndarray:
    target = np.zeros(len(digits.images), int)
    for name, numbers in digits.by_class.items():
        target[numbers] = int(name)
    return target


def test_mnist_as_pictures(trained: Path, digits: Digits) -> None:
    classifier = load_classifier(trained / "checkpoints" / "best.ckpt")
    images, target = digits.images[:40], _targets(digits)[:40]
    plain, *read = bench.mnist_rows(classifier, images, target)
    preds = classifier.probabilities(images[:, None]).argmax(axis=1)
    assert plain["wrong"] == f"{100 * (1 - accuracy_score(target, preds)):.2f} %"
    assert [row["MNIST's test images"] for row in read] == ["read, mode=digit", "read, mode=auto"]


def test_the_naive_recipe_inverts_a_light_ground(trained: Path, digits: Digits) -> None:
    read = bench.naive(load_classifier(trained / "checkpoints" / "best.ckpt"))
    for number in (digits.by_class["0"][0], digits.by_class["8"][0]):
        image = digits.images[number]
        files = []
        for pixels in (image, 255 - image):
            Image.fromarray(pixels).save(file := BytesIO(), "PNG")
            files.append(read(file.getvalue(), "0"))
        assert files[0] == files[1]


def test_without_tesseract_one_line_says_so(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    classifier = load_classifier(trained / "checkpoints" / "best.ckpt")
    assert list(bench.available(["project", "tesseract"], classifier)) == ["project"]
    assert "apt install tesseract-ocr" in capsys.readouterr().err


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.csv: there is no such file"):
        list(bench.labelled(tmp_path))
    (tmp_path / "labels.csv").write_text("file,digits\n")
    with pytest.raises(UserError, match="no column kind"):
        list(bench.labelled(tmp_path))


def test_the_contact_sheet_shows_right_and_wrong(digits: Digits) -> None:
    sheet = bench.ContactSheet(each=1)
    pictures = [draw("blank", index, 0, digits) for index in range(3)]
    for picture, text in zip(pictures, ("", pictures[1].text, ""), strict=True):
        sheet.see(picture, outcome(picture.text, text))
    assert {right: len(kept) for (_, right), kept in sheet.kept.items()} == {False: 1, True: 1}
    assert sheet.image().height == 2 * (sheet.HEIGHT + sheet.HEAD)
