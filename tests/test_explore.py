"""python -m digits.explore: what is wrong with a data set is named, by file or by place."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Outcome
from PIL import Image

from digits import explore
from digits.data import DigitsDataModule


def listed(outcome: Outcome) -> list[dict[str, str]]:
    with (outcome.folder / "suspicious.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path: Path, sample: DigitsDataModule) -> Path:
    """Digits with their splits: a test image of training, a blank one, a broken one, two labels for one image."""
    root = tmp_path / "mine"
    images, target = sample.splits.train.images[::10, 0].numpy(), sample.splits.train.target[::10].numpy()
    for i, (image, label) in enumerate(zip(images, target, strict=True)):
        path = root / ("train" if i % 4 else "test") / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    Image.fromarray(images[2]).save(root / "test" / str(target[2]) / "leak.png")
    Image.fromarray(images[1]).save(root / "train" / str((target[1] + 1) % 10) / "other.png")
    Image.new("L", (28, 28), 7).save(root / "train" / "3" / "blank.png")
    (root / "train" / "4" / "broken.png").write_bytes(b"no picture")
    return root


def test_a_folder_of_images(command: Command, folder: Path) -> None:
    outcome = command("digits.explore", "data=image_folder", f"data.root={folder}", "map_images=100")
    assert outcome.code == 0, outcome.err
    rows = {Path(row["file"]).name: row for row in listed(outcome)}
    assert rows["broken.png"]["reason"] == "broken"
    assert rows["blank.png"]["reason"] == "blank"
    leak = rows["leak.png"]
    assert (leak["reason"], leak["split"], leak["class"]) == ("duplicate", "test", "0")
    assert (leak["twin_split"], Path(leak["twin_file"]).name) == ("train", "2.png")
    pair = [rows[name] for name in ("other.png", "1.png") if name in rows and rows[name]["reason"] == "duplicate"]
    assert len(pair) == 1
    assert pair[0]["class"] != pair[0]["twin_class"]
    assert "test images that are training or validation images too: 1 (" in outcome.out
    assert "leak.png = " in outcome.out
    assert "equal images with different labels: 1 (" in outcome.out
    assert "files that cannot be read: 1 (" in outcome.out
    assert outcome.record["suspicious"]["duplicate"] == 2
    assert outcome.record["test_images_in_training"]["duplicate"] == 1
    names = {"class_distribution", "map", "mean_images", "sample_images", "suspicious"}
    assert {path.stem for path in outcome.folder.glob("*.png")} == names


def test_a_data_set_by_place(command: Command, sample: DigitsDataModule) -> None:
    outcome = command("digits.explore", "data=mnist5k", "figures=false", "near=0.98")
    assert outcome.code == 0, outcome.err
    assert outcome.record["split_sizes"] == {"train": 4000, "val": 500, "test": 500}
    counts = np.bincount(sample.splits.train.target, minlength=10)
    assert outcome.record["class_counts"]["training"] == counts.tolist()
    near = [row for row in listed(outcome) if row["reason"] == "near-duplicate"]
    assert near
    by_place = {
        (name, int(index)): image.numpy().ravel()
        for name, part in vars(sample.splits).items()
        for index, image in zip(part.index, part.images, strict=True)
    }
    for row in near:
        pair = by_place[row["split"], int(row["index"])], by_place[row["twin_split"], int(row["twin_index"])]
        assert np.corrcoef(pair)[0, 1] == pytest.approx(float(row["value"]), abs=1e-3)
    assert not [*outcome.folder.glob("*.png")]


def test_mean_images(sample: DigitsDataModule) -> None:
    means = explore.Everything.of(sample).means()
    train = sample.splits.train
    assert means[4] == pytest.approx(train.images[train.target == 4].float().mean(dim=0).numpy(), abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["near=2"], "near=2: should be less than or equal to 1"),
        (["map=tsne"], "map=tsne: should be 'pca' or 'umap'"),
        (["outliers=-1"], "outliers=-1: should be greater than or equal to 0"),
        (["data=image_folder", "data.root=/nowhere"], "data.root=/nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, command: Command) -> None:
    outcome = command("digits.explore", *words)
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {message}")
    assert len(outcome.err.splitlines()) == 1


def test_a_folder_without_one_readable_image(command: Command, tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "mine" / label).mkdir(parents=True)
        (tmp_path / "mine" / label / "1.png").write_bytes(b"no picture")
    outcome = command("digits.explore", "data=image_folder", f"data.root={tmp_path / 'mine'}")
    assert outcome.code == 1
    assert "none of its images can be read: " in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_umap_is_an_extra(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)  # as if it were not installed
    outcome = command("digits.explore", "data=mnist5k", "map=umap")
    assert outcome.err == "error: map=umap: umap-learn is not installed. Run uv sync --extra umap, or give map=pca\n"
