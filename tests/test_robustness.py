"""python -m digits.robustness: figures by an independent count, and each refusal in one line."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from fakes import write_folder
from PIL import Image

from digits import robustness
from digits.checkpoints import Checkpoint
from digits.corruptions import CORRUPTIONS, corrupt
from digits.data import DigitsDataModule
from digits.runs.run import Run

QUICK = ("curve_images=0", "images=50", "figures=false")


def best(folder: Path) -> str:
    return f"{folder}/checkpoints/best.ckpt"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "robustness.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures_of_one_checkpoint(command: Command, trained: Path, sample: DigitsDataModule) -> None:
    outcome = command("digits.robustness", f"ckpt_path={trained}", "curve_images=20", "others=[load_digits]")
    assert (outcome.code, outcome.err) == (0, "")
    record = outcome.record
    test, network = sample.splits.test, Checkpoint.open(best(trained)).network().eval()

    def right(images: np.ndarray) -> float:
        with torch.inference_mode():
            logits = network((torch.from_numpy(images).float() / 255 - 0.1307) / 0.3081)
        return float((logits.argmax(dim=1) == test.target).float().mean())

    index = test.index.numpy()
    expected = {name: right(corrupt(name, one, test.images.numpy(), index)) for name, one in CORRUPTIONS.items()}
    assert record["test/acc"] == pytest.approx(Run(trained).facts["test/acc"])
    assert {name: record[f"corrupted/{name}"] for name in CORRUPTIONS} == pytest.approx(expected)
    assert record["corrupted/acc"] == pytest.approx(np.mean(list(expected.values())))
    assert 0.3 < record["load_digits/acc"] < 1
    assert record["status"] == "completed"

    rows = rows_of(outcome.folder)
    assert len(rows) == 1 + 15 + 11 + 11 + 8 + 9 + 8 + 1 + 1
    fog = next(row for row in rows if row["name"] == "fog")
    assert float(fog["accuracy"]) == pytest.approx(expected["fog"])
    assert float(fog["of_clean"]) == pytest.approx(expected["fog"] / record["test/acc"], abs=1e-4)
    zero = next(row for row in rows if (row["name"], row["strength"]) == ("rotation", "0"))
    assert (zero["kind"], zero["images"]) == ("curve", "20")
    for name in ("corruptions", "strengths", "strength_curves"):
        assert min(Image.open(outcome.folder / f"{name}.png").size) > 200
    assert f"{record['corrupted/acc']:.2%}" in outcome.out
    assert "mean of the 15" in outcome.out


def test_checkpoints_side_by_side(command: Command, trained: Path, tmp_path: Path) -> None:
    other = shutil.copy(best(trained), tmp_path / "other.ckpt")
    outcome = command("digits.robustness", f"ckpt_path=[{best(trained)},{other}]", *QUICK)
    assert (outcome.code, outcome.err) == (0, "")
    a, b = outcome.record["members"]
    assert (a.pop("ckpt_path"), b.pop("ckpt_path")) == (best(trained), str(other))
    assert a == b
    assert {row["images"] for row in rows_of(outcome.folder)} == {"50"}
    assert {path.suffix for path in outcome.folder.iterdir()} <= {".json", ".csv", ".yaml", ".log", ""}
    again = command("digits.robustness", f"ckpt_path={other}", *QUICK)  # one alone, by the same images
    assert {name: again.record[name] for name in a} == a


def test_images_of_ones_own(command: Command, tmp_path: Path) -> None:
    """Colour images, dark on light, of other classes."""
    write_folder(tmp_path / "images", {"a": [*range(20)], "b": [*range(500, 520)]})
    for path in (tmp_path / "images").rglob("*.png"):
        Image.eval(Image.open(path), lambda value: 255 - value).save(path)
    data = ["data=image_folder", f"data.root={tmp_path}/images", "data.channels=3", "data.image_size=20"]
    assert command("train", *data, "model=fast", "trainer.max_epochs=1").code == 0
    outcome = command("digits.robustness", "curve_images=2", "figures=true")
    assert (outcome.code, outcome.err) == (0, "")
    assert 0 <= outcome.record["corrupted/acc"] <= 1
    refused = command("digits.robustness", "others=[usps]", *QUICK)
    assert refused.code == 1
    assert "others=usps: its classes (0, 1" in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["others=[mnist5k]"], "others=mnist5k: no other data for this checkpoint, which was trained on it"),
        (["others=[letters]"], "others=letters: there are usps, qmnist, load_digits, mnist, mnist5k"),
        (["images=0"], "images=0: should be greater than 0"),
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["ckpt_path=[{best},{best}]"], "the same checkpoint twice"),
        (["device=gpu"], "device=gpu: should be 'auto' or 'cpu'"),
    ],
)
def test_refused(command: Command, trained: Path, words: list[str], message: str) -> None:
    words = [word.format(best=best(trained)) for word in words]
    outcome = command("digits.robustness", f"ckpt_path={trained}", *words)
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_images_too_small(sample: DigitsDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("digits.corruptions.SMALLEST", 29)
    with pytest.raises(robustness.UserError, match="mine: its images have 28×28 pixels; the corruptions need 29×29"):
        robustness._check_size("mine", sample.splits.test)


def test_drawn_images_are_distinct_and_in_order(sample: DigitsDataModule) -> None:
    test = sample.splits.test
    some = robustness.drawn(test, 100, seed=0).index
    assert (some.diff() > 0).all()
    assert set(some.tolist()) <= set(test.index.tolist())
    assert robustness.drawn(test, 10_000, seed=0) is test
