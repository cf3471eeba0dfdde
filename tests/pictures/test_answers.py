"""Which files are meant, one answer for each, and names for what is written of them."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from digits.errors import UserError
from digits.pictures.answers import Answer, image_paths, output_names, read_files, report_failures
from digits.pictures.decode import read_picture


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(3):
        Image.new("L", (5, 5), i).save(folder / f"{i}.png")
    return folder


def test_output_names() -> None:
    paths = [Path("a/1.png"), Path("b/1.jpg"), Path("2.png")]
    assert output_names(paths) == ["0001_1", "0002_1", "0003_2"]
    assert output_names(paths[1:]) == ["1", "2"]


def test_a_folder_a_pattern_a_file_and_several(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scans / "notes.txt").write_text("no image")
    (scans / "odd [1].png").write_bytes(b"")
    assert len(image_paths(str(scans))) == 4
    assert image_paths(str(scans / "odd [1].png")) == [scans / "odd [1].png"]
    monkeypatch.chdir(scans.parent)
    assert image_paths("**/[12].png") == [Path("scans/1.png"), Path("scans/2.png")]
    assert image_paths(["scans/2.png", "scans/*0.png", 7]) == [Path("scans/2.png"), Path("scans/0.png"), Path("7")]


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
    assert output_names([path]) == [path.stem]
    assert read_picture(path).getpixel((0, 0)) == read_picture(str(path)).getpixel((0, 0)) == 99


def test_one_bad_file_does_not_cost_the_others_their_answers(scans: Path, capsys: pytest.CaptureFixture) -> None:
    def read(path: Path) -> list:
        if path.stem == "1":
            raise UserError(f"{path}: damaged")
        if path.stem == "2":
            raise RuntimeError("two\nlines")
        return [path.stem]

    answers = list(read_files(image_paths(str(scans)), read))
    assert [answer.predictions for answer in answers] == [["0"], [], []]
    assert answers[2].error == f"{scans}/2.png: cannot be read (RuntimeError: two lines). Please report it"
    capsys.readouterr()
    with pytest.raises(UserError, match="2 of 3 files have no answer"):
        report_failures(answers)
    assert capsys.readouterr().err.splitlines() == [f"error: {answer.error}" for answer in answers[1:]]
    with pytest.raises(UserError, match=r"1\.png: damaged"):
        report_failures(answers[1:2])
    report_failures([Answer(scans)])
    assert capsys.readouterr().err == ""
