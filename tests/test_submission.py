"""A Kaggle-style submission: an id and a label for each picture of a folder or a CSV, and none that is incomplete."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PROJECT, Command
from fakes import digit
from omegaconf import OmegaConf
from PIL import Image

from digits import load_classifier
from digits.data import DigitsDataModule
from digits.data.tables import ID, listed_images
from digits.errors import UserError
from digits.pictures.answers import Answer
from digits.pictures.reader import ImageClassifier, Prediction, Reading
from digits.predict import PredictSettings
from digits.submission import classify_pixels, doubts_of, has_pixels, rows_of
from digits.validation import read_settings


@pytest.fixture(scope="module")
def checkpoint(trained: Path) -> Path:
    return trained / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> ImageClassifier:
    return load_classifier(checkpoint)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "test").mkdir()
    for i, number in enumerate([700, 3, 4600, 2100]):
        digit(number).save(tmp_path / "test" / f"{i}.png")
    return tmp_path / "test"


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def pixel_table(path: Path, images: np.ndarray, ids: list[str] | None = None, label: bool = False) -> Path:
    """As Kaggle's: images (N, 28, 28) as rows of pixel0 ... pixel783."""
    names = [*(["id"] if ids else []), *(["label"] if label else []), *(f"pixel{i}" for i in range(784))]
    rows = [
        [*([ids[i]] if ids else []), *([9] if label else []), *image.ravel()]
        for i, image in enumerate(images.tolist())
        for image in [np.array(image)]
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def test_a_folder(
    command: Command, checkpoint: Path, classifier: ImageClassifier, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "submission.csv"
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", f"images={pictures}", f"submission={output}")
    assert outcome.code == 0, outcome.err
    assert "4 answers" in outcome.out
    expected = [[path.name, classifier.predict(path).label] for path in sorted(pictures.iterdir())]
    assert read(output) == [["id", "label"], *expected]


def test_a_table_of_files(
    command: Command, checkpoint: Path, classifier: ImageClassifier, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "submission.csv"
    (tmp_path / "test.csv").write_text("id\ntest/2.png\ntest/0.png\ntest/1.png\n")
    words = (f"ckpt_path={checkpoint}", f"images={tmp_path}/test.csv", f"submission={output}")
    outcome = command("digits.predict", *words, "submission_header=[Id,Category]")
    assert outcome.code == 0, outcome.err
    rows = read(output)
    assert rows[0] == ["Id", "Category"]
    assert [row[0] for row in rows[1:]] == ["test/2.png", "test/0.png", "test/1.png"]
    assert [row[1] for row in rows[1:]] == [classifier.predict(tmp_path / row[0]).label for row in rows[1:]]
    (tmp_path / "two.csv").write_text("ImageId,filename\n17,test/2.png\n4,test/0.png\n")
    assert [one.label for one in listed_images(tmp_path / "two.csv", ID)] == ["17", "4"]


@pytest.mark.parametrize("ids", [None, ["b", "a", "c"]])
def test_a_table_of_pixels(
    ids: list[str] | None, command: Command, checkpoint: Path, sample: DigitsDataModule, tmp_path: Path
) -> None:
    """The images go to the network as they are: as in a test."""
    images = sample.splits.test.images[:3, 0].numpy()
    table = pixel_table(tmp_path / "test.csv", images, ids, label=ids is not None)
    output = tmp_path / "submission.csv"
    words = (f"ckpt_path={checkpoint}", f"images={table}", f"submission={output}")
    outcome = command("digits.predict", *words, "submission_header=[ImageId,Label]")
    assert outcome.code == 0, outcome.err
    labels = load_classifier(checkpoint).probabilities(images[:, None]).argmax(axis=1)
    assert read(output) == [["ImageId", "Label"], *([i, str(n)] for i, n in zip(ids or "123", labels, strict=True))]


def test_many_rows_are_read_in_batches(sample: DigitsDataModule, classifier: ImageClassifier, tmp_path: Path) -> None:
    sizes = []

    def logits(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return classifier.logits(images)

    images = np.concatenate([sample.splits.test.images[:, 0].numpy()] * 2)[:700]
    table = pixel_table(tmp_path / "test.csv", images)
    rows = list(classify_pixels(ImageClassifier(logits, classifier.facts), table))
    assert sizes == [500, 200]
    assert [name for name, *_ in rows] == [str(i) for i in range(1, 701)]


def made(*kinds: str, note: str = "") -> Reading:
    """A reading of marks `7` that are answers, `-` separators, or `?` none of the classes."""
    marks = [
        Prediction("-" if kind == "-" else "7", 0.4, "1", 0.2, {}, np.zeros((1, 28, 28)), (0, 0, 1, 1), 0.5, *flags)
        for kind in kinds
        for flags in [(kind == "?", kind == "-")]
    ]
    return Reading(marks, "" if "7" in kinds else "nothing like it", note)


def test_a_label_that_is_no_plain_answer_is_said() -> None:
    readings = {"a": made("7"), "b": made("?"), "c": made("7", note="two digits"), "d": made("-"), "e": made()}
    answers = [*(Answer(Path(name), reading) for name, reading in readings.items()), Answer(Path("f"), error="f: bad")]
    assert list(rows_of(answers, "abcdef")) == [
        *(("a", "7", ""), ("b", "7", ""), ("c", "7", "")),
        *(("d", "", "d: nothing like it"), ("e", "", "e: nothing like it"), ("f", "", "f: bad")),
    ]
    assert list(doubts_of(answers[:3], "abc", "digit")) == [
        "1 of 3 pictures: no digit found, and the label is the least unlikely one (b)",
        "1 of 3 pictures: more than one digit found, and the label is that of one (c)",
    ]
    assert not list(doubts_of(answers[:1], "a", "digit"))


def test_no_submission_without_every_answer(command: Command, checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    Image.new("L", (100, 100), 255).save(pictures / "blank.png")
    (pictures / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "submission.csv"
    outcome = command("digits.predict", f"ckpt_path={checkpoint}", f"images={pictures}", f"submission={output}")
    assert outcome.code == 1
    [line] = outcome.err.splitlines()
    assert f"submission={output}: not written, because 2 of 6 pictures have no answer (blank.png, broken.png)" in line
    assert re.search(r"The first: .*/blank\.png: .*blank", line)
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("file\n../secret.png\n", "test.csv, line 2: '../secret.png' is no file name relative to"),
        ("file\n/etc/secret.png\n", "test.csv, line 2: '/etc/secret.png' is no file name relative to"),
        ("file\nnone.png\n", "none.png: no such file"),
        ("file\n", "it lists no images"),
        ("", "empty, damaged, or not a CSV with a header"),
        ("one,two\na,b\n", "line 1: one, two: no header that names the files. Call them file"),
        ("a.png\nb.png\n", "line 1: a.png: no header that names the files"),
        ("id,pixel0,pixel1\n1,2,3\n", "line 1: 2 columns of pixels, and the network takes images of 28×28 pixels"),
        ("{pixels}\n" + ",".join(["0"] * 785) + "\n", "Expected 784 fields in line 2, saw 785"),
        ("0,0,0\n1,2,3\n", "line 1: two columns have the same name: is the header missing?"),
        ("{pixels}\n" + ",".join(["0"] * 783) + ",256\n", "line 2: pixel783=256: give a whole number from 0 to 255"),
        ("{pixels}\n" + ",".join(["0.5"] * 784) + "\n", "line 2: pixel0=0.5: give a whole number from 0 to 255"),
        ("{pixels}\n0,1\n", "line 2: pixel2=: give a whole number"),
        ("{pixels}\n", "it has no images"),
        (",".join(sorted(f"pixel{i}" for i in range(784))) + "\n", "line 1: the pixels' columns are not in the order"),
        ("id,{pixels}\n" + ("a" + ",0" * 784 + "\n") * 2, "not written, because two pictures have the id a"),
    ],
)
def test_a_bad_table_is_one_line(content: str, line: str, command: Command, checkpoint: Path, tmp_path: Path) -> None:
    content = content.replace("{pixels}", ",".join(f"pixel{i}" for i in range(784)))
    (tmp_path / "test.csv").write_text(content)
    output = tmp_path / "submission.csv"
    words = (f"ckpt_path={checkpoint}", f"images={tmp_path}/test.csv", f"submission={output}")
    outcome = command("digits.predict", *words)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1, outcome.err
    assert line in outcome.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"submission": "a.txt"}, "submission=a.txt: give a file that ends with .csv, in a folder that exists"),
        ({"submission": "/nowhere/a.csv"}, "submission=/nowhere/a.csv: give a file that ends with .csv"),
        ({"submission": "a.csv", "mode": "line"}, "mode=line: a submission has one label for each picture"),
        ({"submission": "{table}"}, "submission={table}: that is what is to be read"),
        ({"submission_header": ["id"]}, "submission_header=['id']: List should have at least 2 items"),
        ({}, "images={table}: a CSV of pixels is read for a submission alone"),
        ({"submission": "a.csv", "output": "b.csv"}, "images={table}: a CSV of pixels is read for a submission alone"),
    ],
)
def test_settings_that_cannot_be(settings: dict, line: str, tmp_path: Path) -> None:
    table = pixel_table(tmp_path / "test.csv", np.zeros((1, 28, 28), np.uint8))
    assert has_pixels(table)
    config = yaml.safe_load((PROJECT / "configs" / "predict.yaml").read_text())
    given = {key: value for key, value in config.items() if key not in ("defaults", "hydra")}
    settings = {name: str(table) if value == "{table}" else value for name, value in settings.items()}
    with pytest.raises(UserError, match=re.escape(line.format(table=table))) as error:
        read_settings(PredictSettings, OmegaConf.create(given | {"images": str(table)} | settings))
    assert "\n" not in str(error.value)
