"""python -m digits.label_errors: wrong labels come first, by the networks that have not seen their images."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from conftest import Command, Outcome, call
from PIL import Image

from digits.checkpoints import Checkpoint
from digits.compare import logits_of
from digits.crossval import OutOfFold, cross_validate
from digits.data import DigitsDataModule
from digits.data.datasets import Mnist
from digits.errors import UserError
from digits.label_errors import rank

WRONG = 5  # labels of the folder


def listed(outcome: Outcome) -> list[dict[str, str]]:
    with (outcome.folder / "label_errors.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample: DigitsDataModule) -> Path:
    """Zeros and ones, `WRONG` of them in the other's folder; their files are called so."""
    root = tmp_path_factory.mktemp("labels") / "mine"
    train = sample.splits.train
    for label in (0, 1):
        (root / str(label)).mkdir(parents=True)
    for label in (0, 1):
        for i, image in enumerate(train.images[train.target == label][:90]):
            wrong = label == 0 and i % 18 == 3
            path = root / str(1 - label if wrong else label) / f"{'wrong' if wrong else 'right'}{label}{i}.png"
            Image.fromarray(image[0].numpy()).save(path)
    return root


@pytest.fixture(scope="module")
def validated(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its cross-validation in two parts."""
    logs = tmp_path_factory.mktemp("logs")
    place = logs / "crossval" / "one"
    words = ["data=image_folder", f"data.root={folder}", "model=fast", "trainer.max_epochs=12", "figures=false"]
    words += ["trainer=cpu", "data.batch_size=10", "trainer.enable_progress_bar=false", "data.val_size=20"]
    sweep = ["--multirun", *words, "data.folds=2", "data.fold=0,1", f"hydra.sweep.dir={place}"]
    assert call("train", *sweep) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"returncode": 0}))
        assert cross_validate([f"resume_sweep={place}"]) == 0
    return place


def test_out_of_fold_of_a_folder(command: Command, validated: Path, folder: Path) -> None:
    outcome = command("digits.label_errors", f"crossval={validated}", "rows=10")
    assert outcome.code == 0, outcome.err
    rows = listed(outcome)
    first = [Path(row["file"]) for row in rows[:WRONG]]
    assert all(path.name.startswith("wrong") and path.is_file() for path in first)
    assert {(row["given"], row["suggested"]) for row in rows[:WRONG]} == {("1", "0")}
    assert (outcome.folder / "label_errors.png").is_file()
    predictions = OutOfFold.read(validated)
    expected = find_label_issues(
        predictions.target, predictions.calibrated, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert [int(row["index"]) for row in rows if row["called_wrong"] == "True"] == expected.tolist()
    assert outcome.record["label_errors"] == len(expected)
    probability = predictions.calibrated[int(rows[0]["index"]), 1]
    assert float(rows[0]["probability_given"]) == pytest.approx(probability, abs=1e-6)


def test_calibrated_probabilities_are_those_of_the_logits_at_the_temperature(validated: Path) -> None:
    predictions = OutOfFold.read(validated)
    checkpoint = Checkpoint.open(validated / "1")
    temperature = checkpoint.confidence.temperature
    assert temperature == pytest.approx(predictions.temperature[1])
    expected = (logits_of(checkpoint, checkpoint.data(), "cpu").double() / temperature).softmax(dim=1)
    assert predictions.calibrated[predictions.fold == 1] == pytest.approx(expected.numpy(), abs=1e-4)


def test_a_test_set_by_a_checkpoint(command: Command, trained: Path) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    outcome = command("digits.label_errors", f"ckpt_path={path}", "split=test", "images=10")
    assert outcome.code == 0, outcome.err
    rows = listed(outcome)
    assert len(rows) == 100
    given = [float(row["probability_given"]) for row in rows]
    assert given == sorted(given)
    confused = json.loads((trained / "metrics.json").read_text())["misclassification"]["errors"]
    assert sum(float(row["probability_suggested"]) > float(row["probability_given"]) for row in rows) == confused


def test_the_suggested_class_is_the_most_probable_other_one() -> None:
    target = np.array([0, 1, 2, 0] * 5)
    probabilities = np.full((20, 3), 0.05)
    probabilities[np.arange(20), target] = 0.9
    probabilities[1] = [0.2, 0.1, 0.7]
    ranking = rank(target, probabilities)
    assert ranking.order[0] == 1
    assert ranking.suggested[1] == 2
    assert (ranking.suggested != target).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split=test"], "split=test: give ckpt_path=, a checkpoint that has not seen the test images"),
        (["split=train", "ckpt_path=a.ckpt"], "split=train: the checkpoint has seen these images"),
        (["ckpt_path=a.ckpt", "crossval=b"], "ckpt_path=a.ckpt: give either a checkpoint or crossval=b"),
        (["ckpt_path=/nowhere.ckpt"], "/nowhere.ckpt: no such file"),
        (["crossval=/nowhere"], "/nowhere/out_of_fold.npz: no such file. Give the folder of a cross-validation"),
        ([], "no cross-validation in it. Run python -m digits.crossval"),
        (["rows=0"], "rows=0: should be greater than 0"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, command: Command) -> None:
    outcome = command("digits.label_errors", *words)
    assert outcome.code == 1
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_other_data(command: Command, validated: Path, folder: Path, tmp_path: Path, trained: Path) -> None:
    """Of other classes, or of the same ones but other images, or labels: each is refused."""
    moved = shutil.copytree(folder, tmp_path / "mine")
    (moved / "0" / "right00.png").rename(moved / "1" / "right00.png")
    checkpoint = trained / "checkpoints" / "best.ckpt"
    cases = [
        (["data.dataset=mnist5k", f"crossval={validated}"], "its classes"),
        ([f"data.root={moved}", f"crossval={validated}"], "mine"),
        ([f"ckpt_path={checkpoint}", "data.dataset=image_folder", f"data.root={folder}"], "its classes (0, 1) are not"),
    ]
    for words, message in cases:
        outcome = command("digits.label_errors", *words)
        assert outcome.code == 1
        assert message in outcome.err.splitlines()[-1]
        assert outcome.err.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "damage",
    [
        {"fold": np.full(180, 7)},
        {"probabilities": np.full((180, 2), 0.4)},
        {"index": np.zeros(180, dtype=int)},
        {"temperature": np.array([0.0, 1.0])},
        {"target": np.full(180, 2)},
        {"class_names": np.array([object()], dtype=object)},  # a pickle
        {"fingerprint": None},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_damaged_file_is_one_line(damage: dict, validated: Path, tmp_path: Path) -> None:
    content = {**np.load(validated / "out_of_fold.npz"), **damage}
    np.savez(tmp_path / "out_of_fold.npz", **{name: value for name, value in content.items() if value is not None})
    with pytest.raises(
        UserError, match=r"out_of_fold\.npz: damaged, or of an older version; python -m digits\.crossval"
    ) as no:
        OutOfFold.read(tmp_path)
    assert "\n" not in str(no.value)


def test_too_few_images_for_folds(command: Command, folder: Path) -> None:
    outcome = command("train", "data=image_folder", f"data.root={folder}", "data.folds=99", "trainer=cpu")
    assert outcome.err.startswith("error: data.folds=99: class 0 has 85 images, fewer than one a fold")


def test_corrected_labels_of_mnist(mnist: DigitsDataModule) -> None:
    """Each differs from the label in the files; in a fold of a cross-validation there are none."""
    target = mnist.splits.test.target.numpy()
    given = [int(target[i]) for i in Mnist.corrected]
    assert given == [8, 0, 9, 2, 5, 5, 5, 0, 1, 5]
    assert [*Mnist.corrected.values()] == [9, 6, 4, 0, 3, 0, 3, 6, 6, 6]
    assert mnist.corrected == Mnist.corrected
    assert DigitsDataModule("mnist", folds=2).corrected == {}
