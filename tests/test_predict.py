"""python -m digits.predict: users' pictures are read, whatever is among them."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import HEAVY, PROJECT, Command, Outcome
from omegaconf import OmegaConf
from PIL import Image

from digits import load_classifier
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.pictures.decode import PictureError
from digits.pictures.reader import Prediction, Reading
from digits.predict import PredictSettings
from digits.validation import read_settings


@pytest.fixture(scope="module")
def checkpoint(trained: Path) -> Path:
    return trained / "checkpoints" / "best.ckpt"


def page(digits: list[np.ndarray], side: int = 90, gap: int = 40) -> Image.Image:
    """Digits (28, 28), light on dark, as dark ink on a white page, in a row."""
    paper = Image.new("L", (gap + len(digits) * (side + gap), side + 3 * gap), 255)
    for i, digit in enumerate(digits):
        ink = Image.fromarray(255 - digit).resize((side, side), Image.Resampling.BICUBIC)
        paper.paste(ink, (gap + i * (side + gap), gap + i % 2 * gap))
    return paper


@pytest.fixture(scope="module")
def test_digits(sample: DigitsDataModule) -> dict[int, np.ndarray]:
    """The first test image of each class."""
    images, target = sample.splits.test.images[:, 0].numpy(), sample.splits.test.target.numpy()
    return {digit: images[target == digit][0] for digit in range(10)}


@pytest.fixture
def scans(test_digits: dict[int, np.ndarray], tmp_path: Path) -> Path:
    """A folder with a page for each digit, `<digit>.png`."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for digit, image in test_digits.items():
        page([image]).save(folder / f"{digit}.png")
    return folder


def test_a_folder_is_read(command: Command, checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", f"images={scans}", f"output={output}")
    assert outcome.code == 0, outcome.err
    assert "runner-up" in outcome.out
    with output.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == [f"{digit}.png" for digit in range(10)]
    right = [row["label"] == Path(row["file"]).stem for row in rows]
    assert sum(right) >= 8, rows  # three epochs on 4,000 digits
    assert all(0.1 < float(row["probability"]) <= 1 for row in rows)
    assert all(row["label"] != row["runner_up"] for row in rows)


def test_starts_without_what_it_does_not_need(checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom digits import predict\n"
        f"sys.argv = ['predict.py', 'images={next(scans.iterdir())}', 'ckpt_path={checkpoint}']\npredict.main()\n"
        f"assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "read as" in ended.stdout


def mark(label: str, probability: float, line: int = 0, **kind: object) -> Prediction:
    """A made answer, whose runner-up is 9."""
    probabilities = {} if kind.get("separator") else {label: probability, "9": 1 - probability}
    image = np.full((1, 28, 28), ord(label), np.uint8)
    return Prediction(label, probability, "9", 1 - probability, probabilities, image, (1, 2, 3, 4), line=line, **kind)


THREE_LINES = Reading(
    [
        *(mark("1", 0.9), mark("2", 0.6), mark(".", 1.0, separator=True), mark("3", 0.99)),
        *(mark("-", 1.0, 1, separator=True), mark("7", 0.95, 1), mark("6", 0.02, 1, known=0.03, rejected=True)),
        mark("4", 0.8, 2),
    ],
    note="upside down",
)
NO_DIGIT = Reading([mark("6", 0.02, known=0.03, rejected=True)], reason="it looks like none of the classes")
Show = Callable[..., Outcome]


@pytest.fixture
def show(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Show:
    """`show(readings, "details=true")`: what the command makes of these readings, of files by name."""
    (tmp_path / "in").mkdir()

    def show(readings: dict[str, Reading | None], *overrides: str) -> Outcome:
        def read(path: Path, mode: str) -> Reading:
            if not (reading := readings[path.name]):
                raise PictureError(f"{path}: damaged")
            return replace(reading, note=f"{reading.note}, mode={mode}") if reading.note else reading

        for name in readings:
            (tmp_path / "in" / name).touch()
        facts = SimpleNamespace(dataset="mnist", are_digits=True, noun="digit")
        made = SimpleNamespace(facts=facts, gate=object(), read=read)
        monkeypatch.setattr("digits.pictures.reader.load_classifier", lambda *_, **__: made)
        return command("digits.predict", f"images={tmp_path}/in", "ckpt_path=none", *overrides)

    return show


def cells(outcome: Outcome) -> list[list[str]]:
    """The table's, without blank ones."""
    rows = [re.split(r" {2,}", line.strip()) for line in outcome.out.splitlines() if line.startswith("  ")]
    return rows[1:]


def test_the_table_shows_each_mark(show: Show) -> None:
    outcome = show(
        {"a.png": THREE_LINES, "b.png": NO_DIGIT, "c.png": Reading([], "blank"), "d.png": Reading([], "blank")}
    )
    assert outcome.code == 0, outcome.err
    assert cells(outcome) == [
        ["a.png", "12.3", "1", "1", "1", "90.0%", "9 (10.0%)"],
        ["-7?"],
        ["4"],
        ["1", "2", "2", "60.0%", "9 (40.0%)"],
        ["1", "3", "."],
        ["1", "4", "3", "99.0%", "9 (1.0%)"],
        ["2", "5", "-"],
        ["2", "6", "7", "95.0%", "9 (5.0%)"],
        ["2", "7", "no digit", "6 (2.0%)"],
        ["3", "8", "4", "80.0%", "9 (20.0%)"],
        ["b.png", "no digit", "1", "1", "no digit", "6 (2.0%)"],
        ["c.png", "no digit"],
        ["d.png", "no digit"],
    ]
    assert outcome.out.splitlines()[-3:] == [
        "a.png: upside down, mode=auto",
        "b.png: it looks like none of the classes",
        "c.png, d.png: blank",
    ]


def test_of_many_the_table_shows_the_least_sure(show: Show) -> None:
    readings = {f"{i:03}.png": Reading([mark("8", 0.9)] * 30) for i in range(300)}
    sure = Reading([mark("1", 0.9), mark("2", 0.6), mark("-", 0.3, separator=True), mark("3", 0.99)])
    outcome = show(readings | {"a.png": THREE_LINES, "b.png": sure, "c.png": NO_DIGIT, "d.png": None})
    assert cells(outcome)[300:] == [
        ["a.png", "12.3", "7", "no digit", "6 (2.0%)"],
        ["-7?"],
        ["4"],
        ["b.png", "12-3", "2", "2", "60.0%", "9 (40.0%)"],
        ["c.png", "no digit", "1", "no digit", "6 (2.0%)"],
        ["d.png", "cannot be read"],
    ]
    assert len(cells(outcome)) == 306
    assert "least sure digit" in outcome.out
    assert outcome.out.splitlines()[-1] == "each digit: details=true, or output=answers.csv"
    assert outcome.code == 1
    assert "d.png: damaged" in outcome.err


def test_details_are_shown_as_one_asks(show: Show) -> None:
    assert len(cells(show({"a.png": THREE_LINES}))) == len(cells(show({"a.png": THREE_LINES}, "details=true"))) == 10
    assert cells(show({"a.png": THREE_LINES}, "details=false"))[0][1] == "12.3"
    many = {"a.png": Reading([mark("8", 0.9)] * 30)}
    assert [len(cells(show(many, *words))) for words in ([], ["details=true"], ["details=false"])] == [1, 30, 1]


def test_json_and_csv_hold_all_that_was_found(show: Show, tmp_path: Path) -> None:
    readings = {"a.png": THREE_LINES, "b.png": NO_DIGIT, "c.png": Reading([], "blank"), "d.png": None}
    assert show(readings, f"output={tmp_path}/all.json").code == 1
    pictures = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert [Path(one["file"]).name for one in pictures] == list(readings)
    assert [one["text"] for one in pictures] == ["12.3\n-7?\n4", "", "", ""]
    assert [one["reason"] for one in pictures] == ["", NO_DIGIT.reason, "blank", ""]
    assert [one["note"] for one in pictures] == ["upside down, mode=auto", "", "", ""]
    assert [one["error"] for one in pictures] == ["", "", "", f"{tmp_path}/in/d.png: damaged"]
    assert [len(one["marks"]) for one in pictures] == [8, 1, 0, 0]
    assert pictures[0]["marks"][6] == {
        **{"line": 2, "position": 7, "label": None, "probability": None, "runner_up": "6"},
        **{"runner_up_probability": 0.02, "known": 0.03, "rejected": True, "separator": False, "box": [1, 2, 3, 4]},
        "probabilities": {"6": 0.02, "9": 0.98},
    }

    show(readings, f"output={tmp_path}/all.csv")
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).stem for row in rows] == [*"aaaaaaaa", "b", "c", "d"]
    assert [row["label"] for row in rows] == [*"12.3-7", "", "4", "", "", ""]
    assert [row["line"] for row in rows] == [*"11112223", "1", "", ""]
    assert [row["position"] for row in rows] == [*"12345678", "1", "", ""]
    for row in rows:
        picture = next(one for one in pictures if one["file"] == row["file"])
        assert {name: row[name] for name in ("text", "reason", "note", "error")}.items() <= picture.items()
        assert set(row) - {"left", "top", "right", "bottom"} == {*picture, *pictures[0]["marks"][0]} - {
            *("marks", "box", "probabilities")
        }
    assert [row["separator"] == "True" for row in rows].count(True) == 2
    assert [rows[0][edge] for edge in ("left", "top", "right", "bottom")] == [*"1234"]


def test_saved_crops_do_not_overwrite_each_other(show: Show, tmp_path: Path) -> None:
    two, one = Reading([mark("1", 0.9), mark("2", 0.6)]), Reading([mark("3", 0.9)])
    show({"a.png": two, "a_1.png": one, "a.jpg": Reading([]), "b.png": None}, f"save_preprocessed={tmp_path}/seen")
    seen = {path.stem: np.asarray(Image.open(path))[0, 0] for path in (tmp_path / "seen").iterdir()}
    assert seen == {"0002_a_1": ord("1"), "0002_a_2": ord("2"), "0003_a_1": ord("3")}


def test_json_has_every_class_and_where_the_digit_is(
    command: Command, checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.json"
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", f"images='{scans}/[07].png'", f"output={output}")
    assert outcome.code == 0, outcome.err
    pictures = json.loads(output.read_text(encoding="utf-8"))
    assert [Path(picture["file"]).name for picture in pictures] == ["0.png", "7.png"]
    for picture in pictures:
        [row] = picture["marks"]
        # What they lack to 1 is that of none of the classes, and of being found wrong.
        assert 0.9 < sum(row["probabilities"].values()) < 1
        assert row["probabilities"][row["label"]] == row["probability"] == max(row["probabilities"].values())
        left, top, right, bottom = row["box"]
        ink = np.argwhere(np.asarray(Image.open(picture["file"])) < 128)
        assert np.abs([left, top] - ink.min(axis=0)[::-1]).max() <= 4
        assert np.abs([right, bottom] - ink.max(axis=0)[::-1] - 1).max() <= 4


def test_a_line_is_read_from_left_to_right(
    command: Command, checkpoint: Path, test_digits: dict[int, np.ndarray], tmp_path: Path
) -> None:
    classifier = load_classifier(checkpoint)
    number = [9, 0, 2, 1, 0]
    page([test_digits[digit] for digit in number]).save(tmp_path / "postcode.png")
    alone = [classifier.predict(page([test_digits[digit]])).label for digit in number]
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", f"images={tmp_path}/postcode.png", "mode=line")
    assert outcome.code == 0, outcome.err
    assert "".join(alone) in outcome.out
    boxes = [one.box for one in classifier.predict_line(tmp_path / "postcode.png")]
    assert len(boxes) == 5
    assert boxes == sorted(boxes)


def test_a_picture_without_a_digit_is_an_answer(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    Image.new("L", (200, 200), 255).save(tmp_path / "blank.png")
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", f"images={tmp_path}/blank.png")
    assert outcome.code == 0, outcome.err
    assert not outcome.err
    assert re.search(r"blank\.png +no digit\n\nblank\.png: no digit found", outcome.out)


def test_what_the_network_saw_is_saved(command: Command, checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    seen = tmp_path / "new" / "seen"
    outcome = command(
        "digits.predict",
        f"ckpt_path={checkpoint}",
        f"images=[{scans}/3.png,{scans}/4.png]",
        f"save_preprocessed={seen}",
    )
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in seen.iterdir()) == ["3.png", "4.png"]
    saved = np.asarray(Image.open(seen / "3.png"))
    assert saved.shape == (28, 28)
    assert np.array_equal(saved, load_classifier(checkpoint).predict(scans / "3.png").image[0])


def test_a_bad_file_does_not_cost_the_others_their_answers(
    command: Command, checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    (scans / "broken.png").write_bytes((scans / "1.png").read_bytes()[:90])
    Image.new("L", (200, 200), 255).save(scans / "blank.png")
    (scans / "scan.pdf").write_bytes(b"%PDF-1.7")
    (scans / "._1.png").write_bytes(b"\0\5\x16\7")
    output = tmp_path / "answers.csv"
    outcome = command(
        "digits.predict", f"ckpt_path={checkpoint}", f"images=[{scans},{scans}/none.png]", f"output={output}"
    )
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert len(lines) == 4
    assert lines[-1] == "error: 3 of 14 files cannot be read, as said above"
    assert [sum(name in line for line in lines) for name in ("broken.png", "scan.pdf", "none.png")] == [1, 1, 1]
    assert re.search(r"^blank\.png: .*blank", outcome.out, re.MULTILINE)
    with output.open(encoding="utf-8") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert len(rows) == 14
    assert [name for name, row in rows.items() if row["error"]] == ["broken.png", "scan.pdf", "none.png"]
    assert [name for name, row in rows.items() if row["reason"]] == ["blank.png"]
    assert rows["0.png"]["label"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "images is not set"),
        (["images={page}", "mode=word"], "mode=word: should be 'auto', 'digit' or 'line'"),
        (["images={page}", "ckpt_path=/nowhere/best.ckpt"], "/nowhere/best.ckpt: no such file"),
        (["images={page}", "ckpt_path=/nowhere/best.onnx"], "/nowhere/best.onnx: No such file"),
        (["images={page}", "ckpt_path={page}"], "no checkpoint"),
        (["images={page}", "modes=line"], "modes"),
        (["images=/nowhere/a.png"], "/nowhere/a.png: No such file"),
    ],
)
def test_bad_input_is_one_line(words: list[str], line: str, command: Command, checkpoint: Path, scans: Path) -> None:
    given = [word.format(page=scans / "1.png") for word in words]
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", *given)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1, outcome.err
    assert line in outcome.err


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"images": "/nowhere/*.png"}, "images=/nowhere/*.png: no picture in '/nowhere/*.png'"),
        ({"images": "{folder}"}, "images={folder}: no picture in '{folder}'. Give a file, a folder"),
        ({"images": []}, "images=[]: no picture in []. Give a file, a folder"),
        ({"images": None}, "images=null: no picture in None. Give a file, a folder"),
        ({"output": "answers.txt"}, "output=answers.txt: give a file that ends with .csv or .json"),
        (
            {"output": "/nowhere/answers.csv"},
            "output=/nowhere/answers.csv: give a file that ends with .csv or .json, in a ",
        ),
        ({"ckpt_path": ["a", "b"]}, "ckpt_path=['a', 'b']: give a name"),
        ({"output": "{folder}/list.csv", "images": "{folder}/list.csv"}, "list.csv: that is what is to be read. Give"),
        (
            {"save_preprocessed": "{folder}", "images": "{folder}/a.png"},
            "save_preprocessed={folder}: the pictures themselves are there",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict, line: str, tmp_path: Path) -> None:
    config = yaml.safe_load((PROJECT / "configs" / "predict.yaml").read_text())
    given = {key: value for key, value in config.items() if key not in ("defaults", "hydra")}
    settings = {
        name: value.format(folder=tmp_path) if isinstance(value, str) else value for name, value in settings.items()
    }
    with pytest.raises(UserError, match=re.escape(line.format(folder=tmp_path))) as error:
        read_settings(PredictSettings, OmegaConf.create(given | {"images": "pictures/a.png"} | settings))
    assert "\n" not in str(error.value)


def test_the_newest_checkpoint_is_taken_and_named(command: Command, trained: Path, scans: Path, tmp_path: Path) -> None:
    none = command("digits.predict", f"images={scans}/1.png")
    assert none.code == 1
    assert "Train one: python train.py" in none.err
    older, newer = (tmp_path / "logs" / "train" / "runs" / name for name in ("b", "a"))
    for age, folder in ((100, older), (10, newer)):
        shutil.copytree(trained, folder)
        os.utime(folder / "config.yaml", (time.time() - age,) * 2)
    outcome = command("digits.predict", f"images={scans}/1.png")
    assert outcome.code == 0, outcome.err
    assert f"model:  {newer / 'checkpoints' / 'best.ckpt'}" in outcome.out


def test_pictures_are_not_written_over(command: Command, checkpoint: Path, scans: Path) -> None:
    before = (scans / "3.png").read_bytes()
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", f"images={scans}", f"save_preprocessed={scans}")
    assert outcome.code == 1
    assert "the pictures themselves are there" in outcome.err
    assert (scans / "3.png").read_bytes() == before


def test_no_folder_is_left(command: Command, checkpoint: Path, scans: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert command("digits.predict", f"ckpt_path={checkpoint}", f"images={scans}/1.png").code == 0
    assert set(tmp_path.rglob("*")) == before
