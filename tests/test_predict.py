"""python -m digits.predict: users' pictures are read, whatever is among them."""

import csv
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PROJECT, Command
from omegaconf import OmegaConf
from PIL import Image

from digits import load_classifier
from digits.data import DigitsDataModule
from digits.errors import UserError
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


def test_json_has_every_class_and_where_the_digit_is(
    command: Command, checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.json"
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", f"images='{scans}/[07].png'", f"output={output}")
    assert outcome.code == 0, outcome.err
    rows = json.loads(output.read_text(encoding="utf-8"))
    assert [Path(row["file"]).name for row in rows] == ["0.png", "7.png"]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["probabilities"][row["label"]] == row["probability"] == max(row["probabilities"].values())
        left, top, right, bottom = row["box"]
        ink = np.argwhere(np.asarray(Image.open(row["file"])) < 128)
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
    output = tmp_path / "answers.csv"
    outcome = command(
        "digits.predict", f"ckpt_path={checkpoint}", f"images=[{scans},{scans}/none.png]", f"output={output}"
    )
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert len(lines) == 4
    assert lines[-1] == "error: 3 of 13 files have no answer, as said above"
    assert [sum(name in line for line in lines) for name in ("broken.png", "blank.png", "none.png")] == [1, 1, 1]
    assert "no digit found" in next(line for line in lines if "blank.png" in line)
    with output.open(encoding="utf-8") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert len(rows) == 13
    assert [name for name, row in rows.items() if row["error"]] == ["blank.png", "broken.png", "none.png"]
    assert rows["0.png"]["label"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "images is not set"),
        (["images={page}", "mode=word"], "mode=word: should be 'digit' or 'line'"),
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
        ({"ckpt_path": ["a", "b"]}, "ckpt_path=['a', 'b']: is not a valid path"),
        ({"save_preprocessed": "pictures"}, "save_preprocessed=pictures: the pictures themselves are there"),
    ],
)
def test_settings_that_cannot_be(settings: dict, line: str, tmp_path: Path) -> None:
    config = yaml.safe_load((PROJECT / "configs" / "predict.yaml").read_text())
    given = {key: value for key, value in config.items() if key not in ("defaults", "hydra")}
    settings = {name: str(tmp_path) if value == "{folder}" else value for name, value in settings.items()}
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
