"""An image folder with splits of its own, and a CSV of files and labels: the splits stay, and bad ones are named."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from fakes import digit, write_folder

from digits.data import DigitsDataModule
from digits.data.folder import ImageFolder
from digits.data.images import image_hashes
from digits.data.restore import restore_data
from digits.data.tables import listed_images
from digits.errors import UserError


@pytest.fixture
def split_folder(tmp_path: Path) -> Path:
    """Folders train, val and test, each with two classes."""
    root = tmp_path / "split"
    for part, first, count in (("train", 0, 12), ("val", 20, 3), ("test", 30, 4)):
        write_folder(
            root / part, {"nought": [*range(first, first + count)], "one": [*range(500 + first, 500 + first + count)]}
        )
    return root


@pytest.fixture
def table(split_folder: Path) -> Path:
    """The same as a CSV with a column of splits, in an order of its own."""
    paths = sorted(split_folder.glob("*/*/*.png"), reverse=True)
    rows = [f"{path.relative_to(split_folder)},{path.parent.name},{path.parts[-3]}" for path in paths]
    (split_folder / "labels.csv").write_text("\n".join(["filename,label,split", *rows]) + "\n")
    return split_folder / "labels.csv"


def loaded(root: Path, **settings) -> DigitsDataModule:
    data = DigitsDataModule("image_folder", root=str(root), **{"val_size": 0.1, "test_size": 0.1, **settings})
    data.prepare_data()
    data.setup()
    return data


def hashes(data: DigitsDataModule, split: str) -> set[str]:
    return set(image_hashes(getattr(data.splits, split).images))


def originals(*numbers: int) -> set[str]:
    return set(image_hashes(torch.stack([torch.from_numpy(_array(number))[None] for number in numbers])))


def _array(number: int):
    import numpy as np

    return np.array(digit(number))


@pytest.mark.parametrize("kind", ["split_folder", "table"])
def test_official_splits_stay(kind: str, request: pytest.FixtureRequest) -> None:
    data = loaded(request.getfixturevalue(kind))
    assert data.split_sizes == {"train": 24, "val": 6, "test": 8}
    assert hashes(data, "train") == originals(*range(12), *range(500, 512))
    assert hashes(data, "val") == originals(*range(20, 23), *range(520, 523))
    assert hashes(data, "test") == originals(*range(30, 34), *range(530, 534))
    assert data.class_names == ("nought", "one")
    assert data.settings["test_size"] is None
    again = restore_data(data.settings)
    assert again.settings == data.settings
    assert hashes(again, "test") == hashes(data, "test")
    fold = loaded(
        request.getfixturevalue(kind), folds=3, fold=1
    )  # of the training images; official tests are left alone
    assert fold.split_sizes == {"train": 16, "val": 6, "test": 8}
    assert hashes(fold, "test") < hashes(data, "train")


def test_what_is_missing_is_cut_from_training(split_folder: Path) -> None:
    shutil.rmtree(split_folder / "val")
    assert loaded(split_folder).split_sizes == {"train": 22, "val": 2, "test": 8}
    shutil.rmtree(split_folder / "test")
    assert loaded(split_folder).split_sizes == {"train": 20, "val": 2, "test": 2}


def test_no_validation_where_none_is_wanted(split_folder: Path) -> None:
    data = loaded(split_folder, val_size=0)
    assert data.split_sizes == {"train": 24, "val": 0, "test": 8}
    assert restore_data(data.settings).split_sizes == data.split_sizes


def test_a_changed_folder_tests_only_unseen_official_test_images(
    split_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = loaded(split_folder)
    digit(40).save(split_folder / "test" / "nought" / "new.png")
    digit(41).save(split_folder / "train" / "nought" / "new.png")
    digit(3).save(split_folder / "test" / "nought" / "seen.png")  # it was in training
    with caplog.at_level(logging.WARNING):
        again = restore_data(data.settings)
    assert hashes(again, "test") == hashes(data, "test") | originals(40)
    assert "1 of 10 images were in training or validation: left out. All 9 others are tested" in caplog.text
    assert "1 of its 10 test images are among its training or validation images too" in caplog.text


def test_a_checkpoint_of_another_data_set_is_tested_on_the_test_images(
    split_folder: Path, sample: DigitsDataModule
) -> None:
    for place in split_folder.glob("*/*"):
        place.rename(place.with_name({"nought": "0", "one": "1"}[place.name]))
    settings = sample.settings | {"class_names": ["0", "1"]}
    assert restore_data(settings, dataset="image_folder", root=str(split_folder)).split_sizes["test"] == 8


def test_plain_tables(tmp_path: Path) -> None:
    """Without splits, in other words, with semicolons and a byte-order mark, and with further columns."""
    write_folder(tmp_path / "all", {"x": [*range(10), *range(500, 510)]})
    rows = [f"all/x/{i:02}.png;{'ab'[i >= 10]}" for i in range(20)]
    (tmp_path / "one.csv").write_text("\n".join(["name;kind", *rows]), encoding="utf-8-sig")
    data = loaded(tmp_path / "one.csv")
    assert data.split_sizes == {"train": 16, "val": 2, "test": 2}
    assert data.title == f"{tmp_path.name}/one.csv"
    wide = [f"{i},{row.replace(';', ',')},somebody" for i, row in enumerate(rows)]
    (tmp_path / "two.csv").write_text("\n".join(["id,Image,Target,writer", *wide]))
    assert hashes(loaded(tmp_path / "two.csv"), "test") == hashes(data, "test")


HEADER = "file,label,split\n"
ROWS = "a/0.png,x,train\na/1.png,y,train\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (HEADER + ROWS + "a/none.png,x,test\n", "line 4: {folder}/a/none.png: no such file"),
        (HEADER + ROWS + "a/2.png,x,tset\n", "line 4: split='tset': there are train, training, val, valid"),
        (HEADER + ROWS + "a/2.png,x,\n", "line 4: split='': there are train"),
        (HEADER + ROWS + "a/2.png,,test\n", "line 4: no label"),
        (HEADER + ROWS + "a/2.png,z,test\n", "line 4: class z has no training images (x, y have)"),
        (HEADER + ROWS + "a/./1.png,y,test\n", "line 4: a/./1.png stands on line 3 too"),
        (HEADER + ROWS + "../2.png,x,test\n", "line 4: '../2.png' is no file name relative to {folder}"),
        (HEADER + ROWS + "a/../../2.png,x,test\n", "line 4: 'a/../../2.png' is no file name"),
        (HEADER + ROWS + "a\\..\\..\\2.png,x,test\n", "is no file name relative to"),
        (HEADER + ROWS + "{folder}/a/2.png,x,test\n", "line 4: '{folder}/a/2.png' is no file name"),
        (HEADER + ROWS + "a/2.png,x\n", "line 4: split=''"),
        (HEADER + ROWS + "a/2.png,x,test,7\n", "Expected 3 fields in line 4, saw 4"),
        (HEADER + ROWS + 'a/2.png,"x\n', "EOF inside string starting at row 3"),
        ("note," + HEADER + '"two\nlines",a/0.png,x,train\n\n,a/none.png,x,train\n', "line 5: {folder}/a/none.png"),
        (HEADER + "a/0.png,x,test\na/1.png,y,test\n", "no training images. There have to be two or more classes"),
        (HEADER + "a/0.png,x,train\na/1.png,x,train\n", "training images of one class only, x."),
        (HEADER, "it lists no images"),
        ("", "empty, damaged, or not a CSV with a header"),
        ("\n\n", "empty, damaged, or not a CSV with a header"),
        (ROWS, "line 1: a/0.png, x, train: no header that tells files from labels. Let it be file,label"),
        ("a/0.png,x\na/1.png,y\n", "line 1: a/0.png, x: no header"),
        ("one,two,three\n" + ROWS, "line 1: one, two, three: no header that tells files from labels"),
        (b"file,label\na/0.png,gr\xfcn\n", "not a CSV with a header in UTF-8"),
    ],
)
def test_a_bad_table_is_one_line(content: str | bytes, line: str, tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [0, 500, 1]})
    for i in range(3):
        (tmp_path / "a" / f"{i:02}.png").rename(tmp_path / "a" / f"{i}.png")
    text = content if isinstance(content, bytes) else content.replace("{folder}", str(tmp_path)).encode()
    (tmp_path / "labels.csv").write_bytes(text)
    with pytest.raises(UserError) as error:
        loaded(tmp_path / "labels.csv")
    assert "labels.csv" in str(error.value)
    assert line.replace("{folder}", str(tmp_path)) in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_split_folders_are_one_line(split_folder: Path) -> None:
    (split_folder / "misc").mkdir()
    with pytest.raises(UserError, match=r"beside train, misc is no split. There are train, val and test"):
        loaded(split_folder)
    (split_folder / "misc").rename(split_folder / "valid")
    with pytest.raises(UserError, match=r"beside val, valid is no split"):
        loaded(split_folder)
    shutil.rmtree(split_folder / "valid")
    (split_folder / "test" / "two").mkdir()
    digit(0).save(split_folder / "test" / "two" / "0.png")
    with pytest.raises(UserError, match=r"test/two: class two has no training images .nought, one have"):
        loaded(split_folder)
    shutil.rmtree(split_folder / "test")
    (split_folder / "test").mkdir()
    digit(0).save(split_folder / "test" / "0.png")
    with pytest.raises(UserError, match=r"its folder test has no folders of images, one for each class"):
        loaded(split_folder)
    with pytest.raises(UserError, match=r"none.csv: No such file"):
        loaded(split_folder / "none.csv")


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    write_folder(tmp_path / "vehicles", {"train": [0, 1, 2], "test": [500, 501, 502]})
    assert ImageFolder(tmp_path / "vehicles", image_size=28).load().class_names == ("test", "train")


def test_the_order_of_a_table_is_kept(table: Path) -> None:
    assert [one.path for one in listed_images(table)] == sorted(table.parent.glob("*/*/*.png"), reverse=True)
