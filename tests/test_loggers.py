"""Loggers: TensorBoard's curves, one's own logger and callback by _target_, names and tags."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PROJECT, Command
from lightning.pytorch.loggers.logger import DummyLogger
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from digits.loggers import CurvesLogger, flush, log_picture, open_loggers
from digits.runs.run import Run

MINE = """
import csv
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger

class Notebook(Logger):
    def __init__(self, run, unit="s"):
        super().__init__()
        self.run, self.unit = run, unit
        self.settings = {}

    name = version = "mine"

    def log_metrics(self, metrics, step):
        with (self.run.folder / "mine.csv").open("a", newline="") as file:
            csv.writer(file).writerows([step, name, float(value)] for name, value in metrics.items())

    def log_hyperparams(self, params):
        self.run.update(mine=sorted(params))

class Watch(Callback):
    def __init__(self, run, word):
        self.run, self.word = run, word

    def on_train_epoch_end(self, trainer, pl_module):
        self.run.update(watched=f"{self.word} {trainer.current_epoch}")
"""


def curve(folder: Path, stage: str, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard" / stage))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_ones_own_logger_and_callback_get_the_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mypkg.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    outcome = command(
        *("train", "data=mnist5k", "model=fast", "trainer.max_epochs=2", "trainer.limit_train_batches=6"),
        *("trainer.log_every_n_steps=4", "+logger.mine._target_=mypkg.Notebook", "+logger.mine.unit=min"),
        *("+callbacks.mine._target_=mypkg.Watch", "+callbacks.mine.word=epoch"),
    )
    assert outcome.code == 0, outcome.err
    record = outcome.record
    assert record["watched"] == "epoch 1"
    assert {"optimizer", "model", "seed"} <= set(record["mine"])
    with (outcome.folder / "mine.csv").open() as file:
        logged = {(int(step), name): float(value) for step, name, value in csv.reader(file)}
    assert [step for step, name in logged if name == "train/loss_step"] == [3, 7, 11]
    assert [step for step, name in logged if name == "val/acc"] == [5, 11]
    assert logged[12, "best/test/acc"] == pytest.approx(record["test/acc"])
    points = curve(outcome.folder, "train", "curves/loss_step")
    assert points == [(step, logged[step, "train/loss_step"]) for step in (3, 7, 11)]

    more = command("train", f"resume={outcome.folder}", "trainer.max_epochs=3", "trust=mypkg")
    assert more.code == 0, more.err
    assert more.record["watched"] == "epoch 2"
    assert [step for step, _ in curve(outcome.folder, "train", "curves/loss_step")] == [3, 7, 11, 15]


def test_pictures_go_to_whoever_takes_them(tmp_path: Path) -> None:
    class Album(DummyLogger):
        def log_image(self, key: str, images: list[str]) -> None:
            self.seen = key, images

    path = tmp_path / "curves.png"
    Image.new("RGB", (8, 8)).save(path)
    album, plain = Album(), object()
    log_picture(SimpleNamespace(loggers=[plain, album], global_step=3), path)
    assert album.seen == ("curves", [str(path)])


def test_a_resumed_run_has_one_curve_of_each_tag(tmp_path: Path) -> None:
    """Logged up to step 9, saved after step 5, and resumed from there."""
    config = OmegaConf.create({"tensorboard": OmegaConf.load(PROJECT / "configs/logger/tensorboard.yaml").tensorboard})
    run = Run(tmp_path)
    for first, step, shift in ((0, None, 0.0), (5, 5, 0.5)):
        [logger] = open_loggers(config, run, step)
        assert isinstance(logger, CurvesLogger)
        for i in range(first, 10):
            logger.log_metrics({"train/loss": i + shift, "val/loss": 2 * i + shift, "lr-Adam": shift, "epoch": 0}, i)
        flush([logger])
        logger.finalize("success")
    for stage, factor in (("train", 1), ("val", 2)):
        expected = [(i, factor * i + (0.5 if i >= 5 else 0)) for i in range(10)]
        assert curve(tmp_path, stage, "curves/loss") == expected
    assert curve(tmp_path, "", "lr-Adam") == [(i, 0.5 if i >= 5 else 0) for i in range(10)]


def test_name_and_tags_reach_wandb_and_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    run = Run(tmp_path)
    run.facts |= {"name": "baseline", "tags": ["paper", "v2"]}
    files = [OmegaConf.load(PROJECT / f"configs/logger/{name}.yaml") for name in ("wandb", "mlflow")]
    config = OmegaConf.create({"log_dir": str(tmp_path), "logger": OmegaConf.merge(*files)})
    wandb, mlflow = open_loggers(config.logger, run, None)
    assert (wandb._wandb_init["name"], wandb._wandb_init["tags"]) == ("baseline", ["paper", "v2"])
    assert (mlflow._run_name, mlflow.tags["tags"]) == ("baseline", "paper, v2")
