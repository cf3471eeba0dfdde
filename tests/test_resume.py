"""An interrupted run resumes as if it had not been: the same weights, figures and files, in the same folder."""

import csv
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, Outcome, call
from filelock import FileLock
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from digits.classifier import Classifier
from digits.compare import compare

SMALL = ["data=mnist5k", "model=fast", "trainer=cpu", "trainer.limit_train_batches=12", "trainer.max_epochs=3"]
SMALL += ["trainer.log_every_n_steps=5"]
MEASURED_TIME = ("seconds", "train/images_per_second")


class Cut(BaseException):
    """As a power cut: nothing of the project's is to catch it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run of `SMALL` that nothing interrupted. Not to be changed."""
    logs = tmp_path_factory.mktemp("whole")
    assert call("train", "figures=false", *SMALL, f"log_dir={logs}") == 0
    [folder] = (logs / "train" / "runs").iterdir()
    return Outcome(0, "", "", folder)


@pytest.fixture
def cut_run(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """`cut_run(7, *words)` is the folder of a run that broke off during its eighth step, having saved after each."""
    training_step = Classifier.training_step

    def run(steps: int, *words: str) -> Path:
        done = 0

        def broken(self: Classifier, batch: Any, batch_idx: int) -> Tensor:
            nonlocal done
            done += 1
            if done > steps:
                raise Cut
            return training_step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "training_step", broken)
            with pytest.raises(Cut):
                command("train", *SMALL, "checkpoint_every_seconds=0", *words)
        return max((tmp_path / "logs" / "train" / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)

    return run


def rows(folder: Path) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name not in MEASURED_TIME} for row in csv.DictReader(file)
        ]


def curve(folder: Path, stage: str, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard" / stage))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def assert_same(resumed: Outcome, whole: Outcome, best: bool = True) -> None:
    for name in ("mnist_cnn_model.pth", "checkpoints/last.ckpt", *(["checkpoints/best.ckpt"] if best else [])):
        ours, theirs = (torch.load(outcome.folder / name, weights_only=True) for outcome in (resumed, whole))
        if "state_dict" in ours:
            assert ours["global_step"] == theirs["global_step"]
            assert str(ours["optimizer_states"]) == str(theirs["optimizer_states"])
            assert str(ours["lr_schedulers"]) == str(theirs["lr_schedulers"])
            ours, theirs = ours["state_dict"], theirs["state_dict"]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert rows(resumed.folder) == rows(whole.folder)
    for name in whole.record:
        if "/" in name or name in ("confusion_matrix", "epochs", "tested_epoch", "status"):
            assert resumed.record[name] == whole.record[name], name
    curves = [("train", "curves/loss"), ("train", "curves/loss_step"), ("", "tested/test/acc")]
    for stage, tag in (*curves, *([("val", "curves/acc")] if best else [])):
        points = curve(resumed.folder, stage, tag)
        assert points == curve(whole.folder, stage, tag)
        assert len(points) == len({step for step, _ in points})
    assert (resumed.folder / "predictions.npz").read_bytes() == (whole.folder / "predictions.npz").read_bytes()


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (7, []),  # during the first epoch
        (12, ["optimizer=sgd"]),  # before the second epoch's first step
        (30, ["augmentation=affine", "scheduler=onecycle", "scheduler.warmup=0.9", "model.dropout=0.5"]),
        (16, ["callbacks=[ema,early_stopping,throughput,lr_monitor]", "scheduler=plateau", "scheduler.warmup=20"]),
        (16, ["optimizer=muon", "optimizer.no_decay=true", "mixing=cutmix", "augmentation=erasing"]),
        (16, ["trainer.accumulate_grad_batches=3", "scheduler=step", "optimizer=rmsprop"]),
        (20, ["data.num_workers=1", "scheduler=cosine", "optimizer=adamw"]),
        (24, ["data.val_size=0", "model.batch_norm=true", "logger=[tensorboard,csv]"]),
    ],
)
def test_it_ends_as_if_it_had_not_been_interrupted(command: Command, cut_run, steps: int, words: list[str]) -> None:
    folder = cut_run(steps, *words)
    resumed = command("train", f"resume={folder}")
    assert resumed.code == 0, resumed.err
    assert resumed.folder == folder
    assert "Warn" not in resumed.err
    whole = command("train", *SMALL, *words)
    assert whole.folder != folder
    assert_same(resumed, whole, best="data.val_size=0" not in words)


def test_cut_twice_and_last(command: Command, cut_run, whole: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cut_run(9)
    training_step = Classifier.training_step

    def broken(self: Classifier, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == 20:
            raise Cut
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", broken)
        with pytest.raises(Cut):
            command("train", f"resume={folder}", "checkpoint_every_seconds=0")
    resumed = command("train", "resume=last")
    assert resumed.folder == folder
    assert len(resumed.record["resumed_at"]) == 2
    assert_same(resumed, whole)


def test_other_loggers_resume_too(command: Command, cut_run, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    words = ["logger=[csv,mlflow,wandb]", "logger.wandb.offline=true", "trainer.log_every_n_steps=1"]
    folder = cut_run(17, *words, "callbacks=lr_monitor")
    resumed = command("train", f"resume={folder}")
    assert resumed.code == 0, resumed.err

    from mlflow import MlflowClient

    logs = tmp_path / "logs"
    client = MlflowClient(tracking_uri=f"sqlite:///{logs}/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    steps = {point.step for point in client.get_metric_history(run.info.run_id, "val/acc")}
    assert steps == {11, 23, 35}
    assert run.info.status == "FINISHED"
    assert len({path.name.rpartition("-run-")[2].partition("-")[2] for path in folder.glob("wandb/offline-run-*")}) == 1

    whole = command("train", *SMALL, "logger=csv", "trainer.log_every_n_steps=1", "callbacks=lr_monitor")
    ours, theirs = (
        list(csv.DictReader((outcome.folder / "csv" / "metrics.csv").open())) for outcome in (resumed, whole)
    )
    assert ours == theirs
    assert len([row for row in ours if row["lr-Adam"]]) == 36


def test_before_the_first_checkpoint_it_restarts_from_scratch(command: Command, cut_run, whole: Outcome) -> None:
    folder = cut_run(5, "checkpoint_every_seconds=60")
    assert not (folder / "checkpoints").exists()
    assert_same(command("train", f"resume={folder}"), whole)


def test_a_finished_run_says_so_and_takes_more_epochs(command: Command, whole: Outcome) -> None:
    first = command("train", *SMALL, "trainer.max_epochs=2", "name=baseline", "tags=[paper]")
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file() and path.suffix != ".log"}
    again = command("train", f"resume={first.folder}")
    assert again.code == 0
    assert "finished: " in again.out
    assert again.record["status"] == "completed"
    assert again.record["test/acc"] == first.record["test/acc"]
    assert {path: path.read_bytes() for path in before} == before

    more = command("train", f"resume={first.folder}", "trainer.max_epochs=3")
    assert more.code == 0, more.err
    assert (more.record["name"], more.record["tags"]) == ("baseline", ["paper"])
    assert_same(more, whole)
    assert OmegaConf.load(more.folder / "config.yaml").trainer.max_epochs == 3


def test_what_would_be_another_experiment_is_refused(command: Command, cut_run) -> None:
    folder = cut_run(3, "scheduler=onecycle")
    before = (folder / "metrics.json").read_bytes()
    for word, line in {
        "model=cnn": "model=cnn: a resumed run keeps its settings; only trainer.max_epochs",
        "model.dropout=0.1": "model.dropout=0.1: a resumed run keeps its settings",
        "seed=2": "seed=2: a resumed run keeps its settings",
        "-m": "A sweep is resumed with resume_sweep",
        "trainer.max_epochs=4": "the learning rate was planned to reach its end in 3 epochs",
    }.items():
        outcome = command("train", f"resume={folder}", word)
        assert outcome.code == 1
        assert outcome.err.count("\n") == 1
        assert line in outcome.err
        assert (folder / "metrics.json").read_bytes() == before
    assert command("train", f"resume={folder}").code == 0  # what was refused is forgotten


def test_the_last_epochs_stay_the_last(command: Command, cut_run) -> None:
    folder = cut_run(3, "callbacks=clean_epochs")
    outcome = command("train", f"resume={folder}", "trainer.max_epochs=4")
    assert outcome.code == 1
    assert "callbacks.clean_epochs were planned to be the last of 3 epochs. Start a new run" in outcome.err


def test_what_is_no_checkpoint_of_the_run_is_refused(command: Command, cut_run) -> None:
    folder, other = cut_run(15), cut_run(3, "model.hidden=32")
    path = folder / "checkpoints" / "last.ckpt"
    good = path.read_bytes()

    def refused(content: bytes, line: str) -> None:
        path.write_bytes(content)
        outcome = command("train", f"resume={folder}")
        assert outcome.code == 1
        assert outcome.err.startswith(f"error: {path}: {line}")
        assert outcome.err.count("\n") == 1

    refused(good[: len(good) // 2], "truncated")
    refused((other / "checkpoints" / "last.ckpt").read_bytes(), "of another run, its model is not this one's.")
    checkpoint = torch.load(io.BytesIO(good), weights_only=True)
    for name in ("optimizer_states", "loops", "train_metrics", "lr_schedulers"):
        with io.BytesIO() as file:
            torch.save({key: value for key, value in checkpoint.items() if key != name}, file)
            refused(file.getvalue(), f"not to resume from, it has no {name}.")
    path.write_bytes(good)
    assert command("train", f"resume={folder}").code == 0


def test_no_such_run(command: Command, tmp_path: Path) -> None:
    assert "resume=last: there is no run in" in command("train", "resume=last").err
    assert f"resume={tmp_path}: not a run's folder" in command("train", f"resume={tmp_path}").err


def test_one_process_at_a_time(command: Command, cut_run) -> None:
    folder = cut_run(3)
    with FileLock(folder / ".lock"):
        outcome = command("train", f"resume={folder}")
    assert outcome.code == 1
    assert "another process is at work in this folder" in outcome.err


def test_a_dead_process_is_told_from_a_live_one(cut_run) -> None:
    folder = cut_run(3)
    record = folder / "metrics.json"
    record.write_text(record.read_text().replace('"status": "failed"', '"status": "running"'))
    assert "crashed" in compare([folder])
    assert f"resume={folder}" in compare([folder])
    with FileLock(folder / ".lock"):
        assert "crashed" not in compare([folder])


def test_a_run_that_stopped_early_stays_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    early = ["callbacks=early_stopping", "callbacks.early_stopping.min_delta=9", "callbacks.early_stopping.patience=1"]
    words = [*SMALL, "trainer.max_epochs=6", *early]
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "test_step", lambda *_: (_ for _ in ()).throw(Cut))
        with pytest.raises(Cut):
            command("train", *words)
    resumed = command("train", "resume=last")
    whole = command("train", *words)
    assert whole.record["epochs"] == 2
    assert_same(resumed, whole)


def test_a_resumed_sweep_resumes_during_its_job(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-m", *SMALL, "seed=1,2"]
    training_step = Classifier.training_step
    steps: list[int] = []

    def interrupted(self: Classifier, batch: Any, batch_idx: int) -> Tensor:
        steps.append(self.global_step)
        if len(steps) == 36 + 21:  # during the second epoch of the second job
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", interrupted)
        cut = command("train", *words)
        assert cut.code == 130, cut.err
        steps.clear()
        resumed = command("train", f"resume_sweep={cut.folder}")
    assert resumed.code == 0, resumed.err
    assert steps == list(range(21, 36))
    whole = command("train", *words)
    for job in "01":
        assert rows(resumed.folder / job) == rows(whole.folder / job)


def test_a_taught_run_resumes_wherever_its_teacher_is(command: Command, cut_run, trained: Path, tmp_path: Path) -> None:
    words = ["teacher=[t.ckpt]", "augmentation=affine", "distillation.temperature=2"]
    best, moved = trained / "checkpoints" / "best.ckpt", tmp_path / "moved.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Path("t.ckpt").write_bytes(best.read_bytes())
        folder = cut_run(16, *words)
        whole = command("train", *SMALL, *words)
    (tmp_path / "t.ckpt").rename(moved)
    gone = command("train", f"resume={folder}")
    assert gone.code == 1
    assert "t.ckpt: no such file" in gone.err
    other = command("train", f"resume={folder}", f"teacher={whole.folder}")
    assert other.code == 1
    assert "of another run, its distillation is not this one's" in other.err
    resumed = command("train", f"resume={folder}", f"teacher={moved}")
    assert resumed.code == 0, resumed.err
    assert_same(resumed, whole)
