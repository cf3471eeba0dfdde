"""python -m digits.crossval: each image is predicted once, by a network that has not seen it."""

import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PROJECT, call
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold

from digits.checkpoints import Checkpoint
from digits.crossval import cross_validate
from digits.data.datasets import Mnist5k
from digits.errors import UserError

SMALL = ["data=mnist5k", "model=fast", "trainer.max_epochs=1", "trainer.limit_train_batches=10", "figures=false"]
ELSEWHERE = subprocess.run


def crossval(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "digits.crossval", *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )


def here(words: list, **settings: object) -> object:
    """As `subprocess.run`, but trains in this process, without the seconds of imports."""
    if Path(words[1]).name != "train.py":
        return ELSEWHERE(words, **settings)
    return SimpleNamespace(returncode=call("train", *words[2:]))


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a cross-validation in three parts, and what it printed."""
    logs, printed = tmp_path_factory.mktemp("crossval"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(subprocess, "run", here)
        assert cross_validate(["folds=3", *SMALL, f"log_dir={logs}"]) == 0
    [folder] = (logs / "crossval").iterdir()
    return folder, printed.getvalue()


def test_folds_are_stratified_and_each_image_is_predicted_once(validated: tuple[Path, str]) -> None:
    folder, _ = validated
    found = np.load(folder / "out_of_fold.npz")
    target = Mnist5k().load().train.target.numpy()
    assert (found["index"] == np.arange(5000)).all()
    assert (found["target"] == target).all()
    assert found["probabilities"].shape == (5000, 10)
    cuts = StratifiedKFold(3, shuffle=True, random_state=0).split(target, target)
    for fold, (_, held_out) in enumerate(cuts):
        assert (np.flatnonzero(found["fold"] == fold) == held_out).all()


def test_figures_are_those_of_the_predictions(validated: tuple[Path, str]) -> None:
    folder, printed = validated
    found = np.load(folder / "out_of_fold.npz")
    with (folder / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    accuracy = []
    for fold, row in enumerate(rows):
        part = found["fold"] == fold
        accuracy.append(accuracy_score(found["target"][part], found["probabilities"][part].argmax(1)))
        assert float(row["test/acc"]) == pytest.approx(accuracy[-1])
        assert int(row["images"]) == part.sum()
    assert f"{mean(accuracy):.2%}" in printed
    assert f"{stdev(accuracy):.2%}" in printed
    assert f"{accuracy_score(found['target'], found['probabilities'].argmax(1)):.2%} of 5,000" in printed
    assert "Best" not in (folder / "summary.md").read_text()


def test_predictions_are_those_of_the_folds_checkpoint(validated: tuple[Path, str]) -> None:
    folder, _ = validated
    found = np.load(folder / "out_of_fold.npz")
    checkpoint = Checkpoint.open(folder / "1" / "checkpoints" / "best.ckpt")
    data = checkpoint.data()
    assert (data.splits.test.index.numpy() == np.flatnonzero(found["fold"] == 1)).all()
    network = checkpoint.network().eval()
    with torch.inference_mode():
        probabilities = network(data.normalise(data.splits.test.images / 255)).softmax(dim=1).numpy()
    np.testing.assert_allclose(found["probabilities"][found["fold"] == 1], probabilities, atol=1e-5)
    record = json.loads((folder / "1" / "metrics.json").read_text())
    assert sum(record["split_sizes"].values()) == 5000  # the official test images have no part in it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folds=1"], "folds=1: should be greater than or equal to 2"),
        (["folds=many"], "folds=many: should be a valid integer"),
        (["seed=1,2"], "seed=1,2: digits.crossval trains one experiment on each fold"),
        (["data.fold=1"], "data.fold=1: digits.crossval sets data.fold itself"),
        (["hparams_search=optuna"], "hparams_search=optuna: digits.crossval trains one experiment on each fold"),
        (["resume_sweep=/nowhere"], "resume_sweep=/nowhere: not a cross-validation's folder"),
        (["folds=101"], "folds=101: should be less than or equal to 100"),
    ],
)
def test_command_line_that_cannot_work_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        cross_validate(words)
    assert "\n" not in str(refused.value)


def test_trains_the_folds_that_are_missing(
    validated: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    expected = dict(np.load(folder / "out_of_fold.npz"))
    (folder / "out_of_fold.npz").unlink()
    shutil.rmtree(folder / "2")
    monkeypatch.setattr(subprocess, "run", here)
    assert cross_validate([f"resume_sweep={folder}"]) == 0
    assert ["finished: " in (folder / job / "train.log").read_text() for job in "012"] == [True, True, False]
    found = np.load(folder / "out_of_fold.npz")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("content", [None, b"PK"])
def test_fold_without_predictions_is_named(
    content: bytes | None, validated: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    path = folder / "1" / "predictions.npz"
    path.unlink()
    if content:
        path.write_bytes(content)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    with pytest.raises(UserError, match=f"{path}: missing or damaged. Delete its folder, and give resume_sweep="):
        cross_validate([f"resume_sweep={folder}"])


def test_errors_of_the_training_are_its_own(tmp_path: Path) -> None:
    answer = crossval("folds=2", "optimizr=sgd", f"log_dir={tmp_path}")
    assert answer.returncode == 1
    assert "there is no key optimizr. Did you mean optimizer?" in answer.stderr
    assert "Traceback" not in answer.stderr
