"""The checkpoint that is tested: what the callback says is best, with the figures of its own weights."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Command, Outcome
from sklearn.metrics import accuracy_score

from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.runs.checkpointing import AtomicCheckpoints, BestCheckpoint
from digits.runs.run import Run, newest_checkpoint

# The learning rate falls to nothing after an epoch that spoils the weights: the best epoch is not the last one.
WORSENING = ["data=mnist5k", "model=fast", "optimizer=sgd", "optimizer.lr=0.05", "trainer.limit_train_batches=10"]
SPOILT = [*WORSENING, "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=40", "trainer.max_epochs=4"]


def rows(outcome: Outcome) -> list[dict]:
    with (outcome.folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def measured(path: Path, sample: DigitsDataModule, split: str) -> float:
    """The accuracy of a checkpoint's weights, by plain torch and scikit-learn."""
    images = getattr(sample.splits, split)
    network = Checkpoint.open(path).network().eval()
    with torch.inference_mode():
        pred = network((images.images / 255 - 0.1307) / 0.3081).argmax(dim=1)
    return accuracy_score(images.target, pred)


def assert_figures_are_of(path: Path, outcome: Outcome, sample: DigitsDataModule) -> None:
    for split in ("val", "test"):
        assert outcome.record[f"{split}/acc"] == pytest.approx(measured(path, sample, split), abs=1e-6)
    ours = torch.load(outcome.folder / "mnist_cnn_model.pth", weights_only=True)
    theirs = Checkpoint.open(path).network().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("monitor", "choose"), [("val/loss", min), ("val/acc", max), ("train/loss", min)])
def test_the_direction_comes_from_the_metric(
    command: Command, sample: DigitsDataModule, monitor: str, choose: type[min]
) -> None:
    outcome = command("train", *SPOILT, f"callbacks.best_checkpoint.monitor={monitor}")
    assert outcome.code == 0, outcome.err
    best = choose(rows(outcome), key=lambda row: float(row[monitor]))
    assert len({row[monitor] for row in rows(outcome)}) > 1
    assert outcome.record["tested_epoch"] == int(best["epoch"])
    assert outcome.record["val/loss"] == float(best["val/loss"])
    assert_figures_are_of(outcome.folder / outcome.record["best_checkpoint"], outcome, sample)


def test_the_plateau_schedule_knows_the_direction_too(command: Command) -> None:
    words = ["scheduler=plateau", "scheduler.monitor=val/acc", "scheduler.patience=0", "scheduler.factor=0.1"]
    outcome = command("train", *WORSENING, "optimizer.lr=0.01", *words, "trainer.max_epochs=4")
    accuracies = [float(row["val/acc"]) for row in rows(outcome)]
    assert accuracies == sorted(accuracies), "the test needs a training that improves"
    assert {float(row["lr"]) for row in rows(outcome)} == {0.01}


def test_early_stopping_knows_the_direction_too(command: Command) -> None:
    words = ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/acc"]
    outcome = command("train", *WORSENING, "optimizer.lr=0.01", *words, "callbacks.early_stopping.patience=1")
    accuracies = [float(row["val/acc"]) for row in rows(outcome)]
    assert len(accuracies) > 3  # by a falling accuracy it would have ended after two


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["callbacks.best_checkpoint.save_top_k=3"], "checkpoints/best-epoch={epoch}-step={step}.ckpt"),
        (["callbacks.best_checkpoint.filename=mine"], "checkpoints/mine.ckpt"),
        (["callbacks.best_checkpoint.dirpath=elsewhere"], "elsewhere/best.ckpt"),
        (
            ["callbacks.best_checkpoint.save_top_k=-1", "callbacks.best_checkpoint.filename={step}"],
            "checkpoints/step={step}.ckpt",
        ),
    ],
)
def test_what_the_callback_says_is_best_is_tested(
    command: Command, sample: DigitsDataModule, words: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted = [f"{key}='{value}'" if "{" in value else word for word in words for key, _, value in [word.partition("=")]]
    outcome = command("train", *SPOILT, *quoted)
    assert outcome.code == 0, outcome.err
    best = max(rows(outcome), key=lambda row: float(row["val/acc"]))
    assert int(best["epoch"]) < 4, "the test needs a training whose last epoch is not its best"
    epoch = int(best["epoch"]) - 1
    assert outcome.record["best_checkpoint"] == name.format(epoch=epoch, step=10 * (epoch + 1))
    assert outcome.record["tested_epoch"] == int(best["epoch"])
    path = outcome.folder / outcome.record["best_checkpoint"]
    assert_figures_are_of(path, outcome, sample)
    # Who takes the newest run's best takes this one.
    assert newest_checkpoint(outcome.folder.parents[2]) == path
    assert Checkpoint.open(outcome.folder).path == path


def test_figures_of_a_validation_during_an_epoch_are_those_of_the_tested_weights(
    command: Command, sample: DigitsDataModule
) -> None:
    outcome = command("train", *WORSENING, "trainer.max_epochs=2", "+trainer.val_check_interval=0.5")
    assert outcome.code == 0, outcome.err
    path = outcome.folder / outcome.record["best_checkpoint"]
    checkpoint = Checkpoint.open(path)
    assert checkpoint.content["global_step"] % 5 == 0
    assert checkpoint.figures["val/acc"] == outcome.record["val/acc"]
    assert_figures_are_of(path, outcome, sample)


def test_weights_that_were_not_validated_have_no_figures(command: Command) -> None:
    outcome = command("train", *WORSENING, "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2")
    assert outcome.code == 0, outcome.err
    assert Checkpoint.open(outcome.folder / "checkpoints" / "last.ckpt").figures == {}
    assert Checkpoint.open(outcome.folder).figures["val/acc"] == float(rows(outcome)[1]["val/acc"])


def test_a_run_that_was_moved_resumes_and_tests_at_its_new_place(command: Command, tmp_path: Path) -> None:
    reference = command("train", *SPOILT)
    first = command("train", *SPOILT[:-1], "trainer.max_epochs=3")
    assert first.code == 0, first.err
    moved = tmp_path / "moved" / "here"
    moved.parent.mkdir()
    first.folder.rename(moved)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(moved)}
    outcome = command("train", f"resume={moved}", "trainer.max_epochs=4")
    assert outcome.code == 0, outcome.err
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(moved)} == before
    record = json.loads((moved / "metrics.json").read_text())
    for name in ("tested_epoch", "best_checkpoint", "epochs", *(name for name in record if "/" in name)):
        assert record[name] == reference.record[name], name


def test_a_copy_resumes_without_touching_the_original(command: Command, tmp_path: Path) -> None:
    first = command("train", *WORSENING, "trainer.max_epochs=1")
    shutil.copytree(first.folder, tmp_path / "copy")
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    assert command("train", f"resume={tmp_path / 'copy'}", "trainer.max_epochs=3").code == 0
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == before
    assert Run(tmp_path / "copy").facts["epochs"] == 3
    assert str(first.folder) not in (tmp_path / "copy" / "config.yaml").read_text()


def test_paths_in_a_checkpoint_are_relative(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    states = {"a": {"dirpath": f"{here}/checkpoints", "best": {f"{here}/x.ckpt": 1.0}, "other": f"{here}2/x", "n": [3]}}
    AtomicCheckpoints(here).save_checkpoint({"state_dict": {}, "callbacks": states}, tmp_path / "c.ckpt")
    loaded = AtomicCheckpoints(there).load_checkpoint(tmp_path / "c.ckpt")["callbacks"]
    assert loaded == {
        "a": {"dirpath": f"{there}/checkpoints", "best": {f"{there}/x.ckpt": 1.0}, "other": f"{here}2/x", "n": [3]}
    }


def test_several_checkpoints_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="filename=mine: 3 checkpoints would replace each other"):
        BestCheckpoint(str(tmp_path), "mine", save_top_k=3, monitor="val/acc", mode="max")


def test_overfit_does_not_validate(command: Command) -> None:
    outcome = command("train", "data=mnist5k", "debug=overfit", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    assert not [name for name in rows(outcome)[0] if name.startswith("val/")]
    assert outcome.record["split_sizes"]["val"] == 0
    assert outcome.record["best_checkpoint"] == "checkpoints/last.ckpt"
    assert outcome.record["tested_epoch"] == 3


def test_a_short_run_with_ema_tests_weights_that_have_moved(command: Command) -> None:
    words = ["data=mnist5k", "model=fast", "trainer.max_epochs=2"]
    plain, average = command("train", *words), command("train", *words, "callbacks=ema")
    assert average.record["val/acc"] > plain.record["val/acc"] - 0.03
