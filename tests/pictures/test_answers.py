"""Which files are meant, one answer for each, and names for what is written of them."""

import logging
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from digits.errors import UserError
from digits.pictures.answers import image_paths, output_names, read_files, report_failures
from digits.pictures.decode import read_picture
from digits.pictures.reader import Reading


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(3):
        Image.new("L", (5, 5), i).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/1.png": 1, "2.png": 1}, "1 2"),
        ({"a/1.png": 1, "b/1.jpg": 1, "2.png": 1}, "0001_1 0002_1 0003_2"),
        ({"a.png": 3, "b.png": 0, "c.png": 1}, "a_1 a_2 a_3 c"),
        ({"a.png": 2, "a.jpg": 0}, "a_1 a_2"),
        ({"a.png": 2, "a_1.png": 1}, "0001_a_1 0001_a_2 0002_a_1"),
        ({"a.png": 1, "A.png": 1}, "0001_a 0002_A"),
        ({"u/\u00e9.png": 1, "u/e\u0301.png": 1}, "0001_\u00e9 0002_e\u0301"),  # one letter, written in two ways
    ],
)
def test_output_names(files: dict[str, int], expected: str) -> None:
    groups = output_names([Path(name) for name in files], list(files.values()))
    assert [len(group) for group in groups] == list(files.values())
    assert [name for group in groups for name in group] == expected.split()


def test_a_folder_a_pattern_a_file_and_several(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scans / "notes.txt").write_text("no image")
    (scans / "odd [1].png").write_bytes(b"")
    assert len(image_paths(str(scans))) == 4
    assert image_paths(str(scans / "odd [1].png")) == [scans / "odd [1].png"]
    monkeypatch.chdir(scans.parent)
    assert image_paths("**/[12].png") == [Path("scans/1.png"), Path("scans/2.png")]
    assert image_paths(["scans/2.png", "scans/*0.png", 7]) == [Path("scans/2.png"), Path("scans/0.png"), Path("7")]


def test_what_lies_in_a_folder(scans: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is hidden or a folder is none of the pictures; what only its owner takes for one is, to be named."""
    for name in (".x.png", "._0.png", ".DS_Store", "labels.csv", "a.txt", "b.txt", "README"):
        (scans / name).write_bytes(b"\0\5\x16\7")
    (scans / "folder.png").mkdir()
    (scans / "folder.png" / "inner.png").write_bytes(b"")
    others = ["IMG_1.HEIC", "anim.gif", "photo.JFIF", "scan.pdf", "drawing.svg", "lost.png"]
    for name in others[:-1]:
        (scans / name).write_bytes(b"")
    (scans / "lost.png").symlink_to("nowhere.png")  # its owner means a picture
    expected = sorted(scans / name for name in ("0.png", "1.png", "2.png", *others))
    with caplog.at_level(logging.INFO):
        assert image_paths(str(scans)) == image_paths(f"{scans}/*") == expected
    line = f"{scans}: no pictures by their names, and left out: README, a.txt, b.txt and 1 more"
    assert caplog.messages == [line, line.replace(": no", "/*: no", 1)]
    assert image_paths(f"{scans}/*.csv") == [scans / "labels.csv"]  # as it was asked for
    with pytest.raises(ValueError, match=r"no picture in .*'scans/\*\*/\*.png'"):
        image_paths([str(scans / "folder.png"), str(scans.parent)])


@pytest.mark.parametrize("images", [None, "", [], {}, [None], [""], "/nowhere/*.png", ["a.png", "none/*"]])
def test_what_means_no_file(images: object) -> None:
    with pytest.raises(ValueError, match=r"no picture in .*Give a file, a folder"):
        image_paths(images)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_outside_ascii(form: str, scans: Path) -> None:
    path = scans / unicodedata.normalize(form, "Größe 数字 é.png")
    Image.new("L", (5, 5), 99).save(path)
    assert path in image_paths(str(scans))
    assert image_paths(str(scans / "Gr*.png")) == image_paths(str(path)) == [path]
    assert output_names([path], [1]) == [[path.stem]]
    assert read_picture(path).getpixel((0, 0)) == read_picture(str(path)).getpixel((0, 0)) == 99


def test_one_bad_file_does_not_cost_the_others_their_answers(scans: Path, capsys: pytest.CaptureFixture) -> None:
    def read(path: Path) -> Reading:
        if path.stem == "1":
            raise UserError(f"{path}: damaged")
        if path.stem == "2":
            raise RuntimeError("two\nlines")
        return Reading([], reason="blank")

    answers = list(read_files(image_paths(str(scans)), read))
    assert [answer.reading for answer in answers] == [Reading([], reason="blank"), None, None]
    assert not answers[0].error
    assert answers[2].error == f"{scans}/2.png: cannot be read (RuntimeError: two lines). Please report it"
    capsys.readouterr()
    with pytest.raises(UserError, match="2 of 3 files cannot be read"):
        report_failures(answers)
    assert capsys.readouterr().err.splitlines() == [f"error: {answer.error}" for answer in answers[1:]]
    with pytest.raises(UserError, match=r"1\.png: damaged"):
        report_failures(answers[1:2])
    report_failures(answers[:1])
    assert capsys.readouterr().err == ""
