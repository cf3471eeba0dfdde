"""python train.py from end to end, on the embedded sample."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from conftest import PROJECT, Command, call
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from digits.data import DigitsDataModule
from digits.networks import CNN

SHORT = ["data=mnist5k", "trainer.max_epochs=1"]
FEW = ["model=fast", "trainer.limit_train_batches=5", "figures=false", "rejection=none"]
FIGURES = ("sample_images", "class_distribution", "training_curves", "confusion_matrix", "reliability", "misclassified")


@pytest.fixture(scope="module")
def record(trained: Path) -> dict:
    return json.loads((trained / "metrics.json").read_text())


def test_run_leaves_everything_behind(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        *(f"{name}.png" for name in FIGURES),
        *("checkpoints", "tensorboard", ".lock", "train.log", "MODEL_CARD.md", "report.html"),
        *("config.yaml", "metrics.csv", "metrics.json", "misclassified.csv", "predictions.npz", "mnist_cnn_model.pth"),
    }
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_a_picture(trained: Path, name: str) -> None:
    with Image.open(trained / f"{name}.png") as picture:
        picture.load()
        assert min(picture.size) > 200
        assert len(picture.convert("L").getcolors()) > 10  # more than an empty page


def test_record(record: dict) -> None:
    assert record["status"] == "completed"
    assert record["dataset"] == "mnist5k"
    assert record["split_sizes"] == {"train": 4000, "val": 500, "test": 500}
    assert record["seed"] == 1
    assert record["parameters"] == 421_642
    assert record["epochs"] == 3
    assert record["device"]
    assert record["precision"] in ("bf16-mixed", "32-true")
    assert record["command"][:2] == ["train.py", "data=mnist5k"]
    assert record["duration_seconds"] > record["train_seconds"] > 0
    assert torch.__version__.startswith(record["versions"]["torch"])


def test_recorded_figures_are_those_of_the_saved_weights(trained: Path, record: dict, sample: DigitsDataModule) -> None:
    """The plain state_dict, plain torch and scikit-learn arrive at the same figures."""
    network = CNN().eval()
    network.load_state_dict(torch.load(trained / "mnist_cnn_model.pth", weights_only=True))
    split = sample.splits.test
    with torch.inference_mode():
        logits = network((split.images / 255 - 0.1307) / 0.3081)
    pred = logits.argmax(dim=1)
    assert record["test/acc"] == pytest.approx(accuracy_score(split.target, pred), abs=1e-6)
    assert record["test/f1"] == pytest.approx(f1_score(split.target, pred, average="weighted"), abs=1e-6)
    assert record["test/loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, split.target).item(), abs=1e-5
    )
    matrix = confusion_matrix(split.target, pred)
    assert record["confusion_matrix"] == matrix.tolist()
    assert record["misclassification"]["errors"] == (pred != split.target).sum()

    with (trained / "misclassified.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row["test_index"]) for row in rows} == set(torch.where(pred != split.target)[0].tolist())
    certainty = [float(row["probability"]) for row in rows]
    assert certainty == sorted(certainty, reverse=True)
    for row in rows:
        assert int(row["target"]) == split.target[int(row["test_index"])]
        assert int(row["pred"]) == pred[int(row["test_index"])]


def test_history_and_record_agree(trained: Path, record: dict) -> None:
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["val/acc"]))
    assert record["tested_epoch"] == int(best["epoch"])
    for name in ("acc", "loss", "precision", "recall", "f1"):
        assert record[f"val/{name}"] == float(best[f"val/{name}"])
    assert {"epoch", "train/loss", "train/acc", "lr", "seconds"} <= rows[0].keys()
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])


def test_config_is_resolved(trained: Path) -> None:
    text = (trained / "config.yaml").read_text()
    assert "${" not in text
    assert yaml.safe_load(text)["data"]["dataset"] == "mnist5k"


def session_of(events: EventAccumulator) -> plugin_data_pb2.SessionStartInfo:
    """What the HPARAMS tab knows of a run's settings."""
    [start] = [
        data.session_start_info
        for tag, content in events.summary_metadata.items()
        if tag == "_hparams_/session_start_info"
        for data in [plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)]
    ]
    return start


def test_tensorboard_has_curves_figures_and_hyperparameters(trained: Path, record: dict) -> None:
    runs = {stage: EventAccumulator(str(trained / "tensorboard" / stage)) for stage in ("train", "val", "")}
    for run in runs.values():
        run.Reload()
    events = runs[""]
    assert {"curves/loss", "curves/acc"} <= set(runs["train"].Tags()["scalars"]) & set(runs["val"].Tags()["scalars"])
    assert len(runs["val"].Scalars("curves/acc")) == 3
    assert [event.step for event in runs["train"].Scalars("curves/loss_step")] == [49, 99]  # of 120 steps
    scalars = events.Tags()["scalars"]
    assert {tag.partition("/")[0] for tag in scalars} == {"tested"}
    assert events.Scalars("tested/test/acc")[-1].value == pytest.approx(record["test/acc"])
    assert set(events.Tags()["images"]) == {f"pictures/{name}" for name in FIGURES}

    start = session_of(events)
    assert start.hparams["optimizer/lr"].number_value == 0.001
    assert start.hparams["seed"].number_value == 1
    [experiment] = [
        plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content).experiment
        for tag, content in events.summary_metadata.items()
        if tag == "_hparams_/experiment"
    ]
    assert "tested/test/acc" in {metric.name.tag for metric in experiment.metric_infos}


def test_what_it_prints(command: Command) -> None:
    outcome = command("train", "data=mnist5k", "trainer.max_epochs=2", "trainer.limit_train_batches=20")
    assert outcome.code == 0, outcome.err
    out = outcome.out
    assert "device: " in out
    assert "mnist5k" in out
    assert "400 (10.0%)" in out  # class counts and shares
    assert "mean 0.13" in out
    assert "sd 0.30" in out or "sd 0.31" in out
    assert "421,642" in out
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for name in ("train/loss", "train/acc", "val/loss", "val/acc", " s"):
        assert name in lines[0]
    record = outcome.record
    for name in ("acc", "precision", "recall", "f1"):
        assert f"{record[f'test/{name}']:.2%}" in out
    for name in record["misclassification"]["most_missed"]:
        assert name in out.partition("most often missed:")[2]
    pair = record["misclassification"]["confusions"][0]
    assert f"{pair['target']} → {pair['pred']} ({pair['count']}×)" in out
    assert "epoch  2/2" in (outcome.folder / "train.log").read_text()


@pytest.fixture(scope="module")
def two_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, subprocess.CompletedProcess]:
    """The logs of two processes of one command that were started at once, and what they printed.

    One of them shows it in a terminal, the other knows no letters but those of ASCII.
    """
    logs = tmp_path_factory.mktemp("two")
    words = [sys.executable, "train.py", *SHORT, *FEW, f"log_dir={logs}"]
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(PROJECT)
        os.execv(words[0], words)
    ascii_only = os.environ | {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    other = subprocess.Popen(
        words, cwd=PROJECT, env=ascii_only, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other side hung up
        while part := os.read(terminal, 65536):
            shown += part
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, shown
    printed, errors = other.communicate()
    assert other.returncode == 0, errors
    return logs, shown.decode(), subprocess.CompletedProcess(words, 0, printed, errors)


def test_ascii_terminal_gets_the_whole_report(two_at_once: tuple[Path, str, subprocess.CompletedProcess]) -> None:
    logs, _, answer = two_at_once
    assert answer.stdout.isascii()
    assert "Logging error" not in answer.stderr
    assert "most often confused" in answer.stdout
    for log in logs.glob("train/runs/*/train.log"):
        assert "→" in log.read_text(encoding="utf-8")


def test_progress_bar_where_there_is_a_terminal(two_at_once: tuple[Path, str, subprocess.CompletedProcess]) -> None:
    _, shown, _ = two_at_once
    assert "epoch 1: 100%|█" in shown
    assert "epoch  1/1" in shown


def exact(record: dict) -> dict:
    return {name: value for name, value in record.items() if "/" in name or name == "confusion_matrix"}


def test_same_seed_same_metrics_to_the_bit(command: Command) -> None:
    settings = ["data=mnist5k", "model=fast", "trainer.max_epochs=2", "augmentation=affine"]
    settings += ["trainer.limit_train_batches=10"]
    first, second = command("train", *settings, "seed=7"), command("train", *settings, "seed=7")
    assert exact(first.record) == exact(second.record)
    columns = [
        [row.split(",")[:-1] for row in (o.folder / "metrics.csv").read_text().splitlines()] for o in (first, second)
    ]
    assert columns[0] == columns[1]
    weights = [torch.load(o.folder / "mnist_cnn_model.pth", weights_only=True) for o in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    other = command("train", *settings, "seed=0")
    assert other.record["seed"] == 0
    assert exact(other.record) != exact(first.record)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=sgd"],
        ["optimizer=rmsprop"],
        ["optimizer=adamw", "optimizer.weight_decay=0.1"],
        ["augmentation=affine"],
        ["scheduler=step", "scheduler.step_size=1"],
        ["trainer=cpu", "seed=0", "data.batch_size=64"],
        ["trainer.precision=32-true"],
        ["trainer.precision=bf16-true"],
        ["trainer.gradient_clip_val=1", "trainer.accumulate_grad_batches=2"],
        ["model.dropout=0.3", "model.batch_norm=true", "model.channels=[8,16,32]"],
        ["data.num_workers=2"],
    ],
    ids=" ".join,
)
def test_override_trains(overrides: list[str], command: Command) -> None:
    outcome = command("train", *SHORT, "model=fast", "trainer.limit_train_batches=20", *overrides)
    assert outcome.code == 0, outcome.err
    assert outcome.record["status"] == "completed"
    assert outcome.record["test/acc"] > 0.3


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.fast_dev_run=true"],
        ["trainer.max_epochs=0"],
        ["trainer.limit_val_batches=0"],
        ["trainer.limit_test_batches=0"],
        ["trainer.max_steps=5"],
        ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3", "trainer.limit_train_batches=2"],
        ["trainer.overfit_batches=2"],
        ["~logger.tensorboard"],
        ["trainer.enable_progress_bar=false"],
        ["trainer.profiler=simple"],
    ],
    ids=" ".join,
)
def test_unusual_run_completes(overrides: list[str], command: Command) -> None:
    outcome = command("train", *SHORT, "model=fast", *overrides)
    assert outcome.code == 0, outcome.err
    assert outcome.record["status"] == "completed"
    assert (outcome.folder / "mnist_cnn_model.pth").exists()


def test_untrained_and_untested_runs_say_so(command: Command) -> None:
    assert "NOT TRAINED" in command("train", "data=mnist5k", "model=fast", "trainer.max_epochs=0").out
    assert "NOT TESTED" in command("train", *SHORT, "trainer.limit_train_batches=1", "trainer.limit_test_batches=0").out


def test_epoch_without_validation_has_no_figures_of_one(command: Command) -> None:
    outcome = command(
        "train",
        "data=mnist5k",
        "trainer.max_epochs=3",
        "trainer.check_val_every_n_epoch=2",
        "trainer.limit_train_batches=5",
    )
    with (outcome.folder / "metrics.csv").open() as file:
        assert [bool(row["val/acc"]) for row in csv.DictReader(file)] == [False, True, False]
    assert outcome.record["tested_epoch"] == 2


def test_learning_rate_of_each_epoch_is_recorded(command: Command) -> None:
    words = ["scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.1", "trainer.limit_train_batches=2"]
    outcome = command("train", "data=mnist5k", "trainer.max_epochs=3", *words)
    with (outcome.folder / "metrics.csv").open() as file:
        assert [float(row["lr"]) for row in csv.DictReader(file)] == pytest.approx([1e-3, 1e-4, 1e-5])


def test_unreachable_mnist_trains_on_the_sample_and_says_so(command: Command, tmp_path: Path) -> None:
    outcome = command("train", f"data.root={tmp_path / 'none'}", "trainer.max_epochs=1", *FEW)
    assert outcome.code == 0, outcome.err
    assert "THIS IS NOT MNIST" in outcome.out
    assert outcome.record["dataset"] == "mnist5k"
    assert "test set of mnist5k" in outcome.out
    assert yaml.safe_load((outcome.folder / "config.yaml").read_text())["data"]["dataset"] == "mnist5k"
    checkpoint = torch.load(outcome.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["data"]["dataset"] == "mnist5k"


def test_unreachable_mnist_is_an_error_if_asked(command: Command, tmp_path: Path) -> None:
    outcome = command("train", f"data.root={tmp_path / 'none'}", "data.offline_fallback=false")
    assert outcome.code == 1
    [line] = outcome.err.strip().splitlines()
    assert "cannot be downloaded" in line


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a sweep over two optimizers and two seeds, and what it printed. Not to be changed."""
    logs, printed = tmp_path_factory.mktemp("swept"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert call("train", "-m", *SHORT, *FEW, "optimizer=adam,sgd", "seed=1,2", f"log_dir={logs}") == 0
    [folder] = (logs / "train" / "multiruns").iterdir()
    return folder, printed.getvalue()


def test_sweep_runs_every_combination(swept: tuple[Path, str], command: Command) -> None:
    folder, _ = swept
    records = [json.loads((folder / str(job) / "metrics.json").read_text()) for job in range(4)]
    assert [record["seed"] for record in records] == [1, 2, 1, 2]
    configs = [yaml.safe_load((folder / str(job) / "config.yaml").read_text()) for job in range(4)]
    targets = ["torch.optim.Adam", "torch.optim.Adam", "torch.optim.SGD", "torch.optim.SGD"]
    assert [cfg["optimizer"]["_target_"] for cfg in configs] == targets
    alone = command("train", *SHORT, *FEW, "seed=2")
    assert exact(alone.record) == exact(records[1])


def test_failed_job_does_not_stop_the_sweep(command: Command) -> None:
    outcome = command("train", "-m", *SHORT, *FEW, "model.dropout=0.5,2,0.3")
    assert outcome.code == 1
    assert "dropout=2: should be less than or equal to 1" in outcome.err
    assert "job 1 failed: model.dropout=2  " in outcome.out
    status = [json.loads((outcome.folder / str(job) / "metrics.json").read_text())["status"] for job in range(3)]
    assert status == ["completed", "failed", "completed"]


def test_runs_started_at_once_do_not_collide(two_at_once: tuple[Path, str, subprocess.CompletedProcess]) -> None:
    logs, _, _ = two_at_once
    folders = list((logs / "train" / "runs").iterdir())
    assert len(folders) == 2
    records = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert [record["status"] for record in records] == ["completed"] * 2
    assert exact(records[0]) == exact(records[1])  # the same seed in two processes


def test_interrupted_run_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from digits.classifier import Classifier

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "on_validation_epoch_end", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    outcome = command("train", *SHORT, "trainer.limit_train_batches=2")
    signal.signal(signal.SIGINT, handler)  # Lightning ignores further ones for the rest of the process
    assert outcome.code not in (0, None)
    assert outcome.record["status"] == "interrupted"


# What is chosen from the groups


def test_average_of_the_weights_is_what_is_evaluated_and_saved(command: Command, sample: DigitsDataModule) -> None:
    words = ["callbacks=ema", "callbacks.ema.decay=0.9", "data=mnist5k", "trainer.max_epochs=2", "trainer=cpu"]
    outcome = command("train", *words, "trainer.limit_train_batches=20", "model.batch_norm=true")
    assert outcome.code == 0, outcome.err
    checkpoint = torch.load(outcome.folder / "checkpoints" / "best.ckpt", weights_only=True)
    average, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert not torch.equal(average["network.head.1.weight"], current["network.head.1.weight"])
    network = CNN(batch_norm=True).eval()
    network.load_state_dict(torch.load(outcome.folder / "mnist_cnn_model.pth", weights_only=True))
    assert torch.equal(network.head[1].weight, average["network.head.1.weight"])
    for split, name in ((sample.splits.val, "val/acc"), (sample.splits.test, "test/acc")):
        with torch.inference_mode():
            pred = network((split.images / 255 - 0.1307) / 0.3081).argmax(dim=1)
        assert outcome.record[name] == pytest.approx(accuracy_score(split.target, pred), abs=1e-6)
    evaluated = command("eval", "trainer=cpu", f"ckpt_path={outcome.folder / 'checkpoints' / 'best.ckpt'}")
    assert evaluated.record["test/acc"] == outcome.record["test/acc"]


def test_average_is_the_exponential_one(command: Command) -> None:
    """After one epoch of three steps: by hand from the weights after each step."""
    import lightning as L

    class Steps(L.Callback):
        seen: ClassVar[list[torch.Tensor]] = []

        def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
            self.seen.append(module.network.head[4].bias.detach().clone())

    words = [*SHORT, "trainer.limit_train_batches=3", "callbacks=ema", "callbacks.ema.decay=0.5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("digits.callbacks.History.on_train_batch_end", Steps().on_train_batch_end, raising=False)
        outcome = command("train", *words)
    assert outcome.code == 0, outcome.err
    average = Steps.seen[0]
    for decay, weights in zip((2 / 11, 3 / 12), Steps.seen[1:], strict=True):  # it warms up
        average = decay * average + (1 - decay) * weights
    checkpoint = torch.load(outcome.folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.testing.assert_close(checkpoint["state_dict"]["network.head.4.bias"], average)


def test_early_stopping_stops(command: Command) -> None:
    words = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer=sgd", "optimizer.lr=1e-12"]
    outcome = command("train", "data=mnist5k", "trainer.max_epochs=9", "trainer.limit_train_batches=1", *words)
    assert outcome.code == 0, outcome.err
    assert outcome.record["epochs"] == 2


def test_throughput_is_in_the_log_and_the_table(command: Command) -> None:
    words = ["callbacks=throughput", "trainer.limit_train_batches=20", "trainer.num_sanity_val_steps=1"]
    outcome = command("train", *SHORT, *words)
    assert outcome.code == 0, outcome.err
    with (outcome.folder / "metrics.csv").open() as file:
        [row] = csv.DictReader(file)
    rate = float(row["train/images_per_second"])
    assert rate > 2000 / float(row["seconds"])  # validation is not counted
    assert f"{rate:,.0f} images/s" in outcome.out


def test_learning_rate_of_each_step_is_logged(command: Command) -> None:
    words = ["callbacks=lr_monitor", "scheduler=cosine", "logger=csv", "trainer.log_every_n_steps=1"]
    outcome = command("train", *SHORT, *words, "trainer.limit_train_batches=4")
    with (outcome.folder / "csv" / "metrics.csv").open() as file:
        rates = [float(row["lr-Adam"]) for row in csv.DictReader(file) if row["lr-Adam"]]
    assert rates == pytest.approx([1e-3, 0.5e-3 * (1 + 2**-0.5), 0.5e-3, 0.5e-3 * (1 - 2**-0.5)])


def test_several_loggers_get_curves_and_final_figures(command: Command) -> None:
    pytest.importorskip("mlflow")
    outcome = command("train", *SHORT, *FEW, "logger=[tensorboard,csv,mlflow]", "figures=true")
    assert outcome.code == 0, outcome.err
    record = outcome.record
    with (outcome.folder / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["best/test/acc"]) for row in rows if row["best/test/acc"]] == [record["test/acc"]]
    assert yaml.safe_load((outcome.folder / "csv" / "hparams.yaml").read_text())["optimizer"]["lr"] == 0.001

    from mlflow import MlflowClient

    logs = outcome.folder.parents[2]
    client = MlflowClient(tracking_uri=f"sqlite:///{logs}/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.data.metrics["best/test/acc"] == pytest.approx(record["test/acc"])
    assert run.data.params["optimizer/lr"] == "0.001"
    assert {"confusion_matrix.png", "training_curves.png"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
    assert any((outcome.folder / "tensorboard").iterdir())


@pytest.mark.slow
def test_wandb_keeps_an_offline_run(command: Command) -> None:
    pytest.importorskip("wandb")
    words = ["logger=wandb", "logger.wandb.offline=true", "seed=1,2"]
    outcome = command("train", "-m", *SHORT, *FEW, *words, "figures=true")
    assert outcome.code == 0, outcome.err
    for job in "01":  # each has its own, though one process ran both
        [run] = (outcome.folder / job / "wandb").glob("offline-run-*")
        assert next(run.glob("*.wandb")).stat().st_size > 0
        assert any(path.name.startswith("training_curves") for path in run.rglob("*.png"))


def test_learning_rate_is_found_and_used(command: Command) -> None:
    undrawn = [f"callbacks.{name}.draw=false" for name in ("data_figures", "history", "test_report")]
    words = [*SHORT, "model=fast", "scheduler=onecycle"]
    outcome = command("train", *words, "find_lr=true", "figures=true", *undrawn)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in outcome.folder.glob("*.png")} == {"find_lr.png"}
    assert "confusion_matrix.png" not in (outcome.folder / "MODEL_CARD.md").read_text()
    cfg = yaml.safe_load((outcome.folder / "config.yaml").read_text())
    assert 1e-4 < cfg["optimizer"]["lr"] < 1e-1
    assert cfg["optimizer"]["lr"] != 0.001
    assert cfg["scheduler"]["max_lr"] == "auto"
    checkpoint = torch.load(outcome.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["optimizer"]["lr"] == cfg["optimizer"]["lr"]
    given = command("train", *SHORT, "model=fast", "scheduler=onecycle", f"optimizer.lr={cfg['optimizer']['lr']}")
    assert exact(given.record) == exact(outcome.record)  # as if it had been given


@pytest.mark.slow
def test_batch_size_is_found_and_used(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("digits.tuning.LARGEST_BATCH", 1000)
    outcome = command("train", *SHORT, "model=fast", "find_batch_size=true")
    assert outcome.code == 0, outcome.err
    size = yaml.safe_load((outcome.folder / "config.yaml").read_text())["data"]["batch_size"]
    assert size == 800  # 100 times a power of two; 1,600 would be above the limit
    given = command("train", *SHORT, "model=fast", "data.batch_size=800")
    assert exact(given.record) == exact(outcome.record)


def test_one_batch_is_learnt_by_heart(command: Command) -> None:
    outcome = command("train", "data=mnist5k", "debug=overfit")
    with (outcome.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    assert float(rows[-1]["train/acc"]) == 1.0


def test_profiler_leaves_its_report(command: Command) -> None:
    outcome = command("train", "data=mnist5k", "debug=profiler", "trainer.limit_train_batches=2")
    assert "run_training_batch" in (outcome.folder / "fit-profile.txt").read_text()


def test_without_validation_the_last_epoch_is_tested(command: Command) -> None:
    outcome = command(
        "train", "data=mnist5k", "data.val_size=0", "trainer.max_epochs=2", "trainer.limit_train_batches=5"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.record["split_sizes"] == {"train": 4500, "val": 0, "test": 500}
    assert outcome.record["tested_epoch"] == 2
    assert "val/acc" not in outcome.record
    assert [path.name for path in (outcome.folder / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("scheduler=plateau", "scheduler watches val/loss, but nothing is validated"),
        ("callbacks=early_stopping", "callbacks.early_stopping watches val/loss, but nothing is validated"),
    ],
)
def test_nothing_may_wait_for_a_validation_that_is_not_there(word: str, message: str, command: Command) -> None:
    outcome = command("train", *SHORT, "data.val_size=0", word)
    assert outcome.code == 1
    assert message in outcome.err
    assert "epoch " not in outcome.out


# Names and sweeps


def test_name_and_tags_show_wherever_the_run_does(command: Command) -> None:
    words = [*SHORT, "model=fast", "trainer.limit_train_batches=1", "name=Größe-2", "tags=[paper,1]"]
    outcome = command("train", *words)
    assert outcome.code == 0, outcome.err
    assert "_Größe-2_" in outcome.folder.name
    assert (outcome.record["name"], outcome.record["tags"]) == ("Größe-2", ["paper", "1"])
    assert "\nRun: Größe-2. Tags: paper, 1.\n" in (outcome.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    events = EventAccumulator(str(outcome.folder / "tensorboard"))
    events.Reload()
    assert session_of(events).hparams["name"].string_value == "Größe-2"
    sweep = command("train", "-m", *words, "seed=1,2")
    assert "_Größe-2_" in sweep.folder.name
    with (sweep.folder / "summary.csv").open(encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["Größe-2"] * 2


def test_names_may_be_swept_over(command: Command) -> None:
    outcome = command("train", "-m", *SHORT, "model=fast", "trainer.limit_train_batches=1", "name=a,b/c")
    assert outcome.code == 1
    assert [json.loads((outcome.folder / job / "metrics.json").read_text())["status"] for job in "01"] == [
        "completed",
        "failed",
    ]
    assert outcome.err.count("name=b/c: a folder is named by it") == 1


def test_sweep_ends_with_a_summary(swept: tuple[Path, str]) -> None:
    folder, printed = swept
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["optimizer"], row["seed"]) for row in rows] == [
        ("adam", "1"),
        ("adam", "2"),
        ("sgd", "1"),
        ("sgd", "2"),
    ]
    assert "data" not in rows[0]  # the same in all
    assert "Best setting by mean val/acc on mnist5k" in printed
    lines = printed.partition("\n\n")[0].splitlines()
    assert [line.partition(":")[0] for line in lines[-8:]] == [
        f"job {job} {what}" for job in range(4) for what in ("starts", "completed")
    ]
    assert lines[-2] == "job 3 starts: optimizer=sgd seed=2"
    record = json.loads((folder / "3" / "metrics.json").read_text())
    figures = f"val/acc {record['val/acc']:.4f}  test/acc {record['test/acc']:.4f}"
    assert lines[-1].startswith(f"job 3 completed: optimizer=sgd seed=2  {figures}  ")
    assert lines[-1].endswith(f" s  {folder / '3'}")
    assert "test set of mnist5k" not in printed
    assert "test set of mnist5k" in (folder / "3" / "train.log").read_text()
    assert {"summary.csv", "summary.md", "summary.png"} <= {path.name for path in folder.iterdir()}


def test_resumed_sweep_runs_only_what_is_not_done(swept: tuple[Path, str], command: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "logs" / "train" / "multiruns" / swept[0].name
    shutil.copytree(swept[0], sweep)
    before = {job: (sweep / job / "metrics.json").read_text() for job in "0123"}
    record = json.loads(before["1"]) | {"status": "running"}  # as after a kill
    (sweep / "1" / "metrics.json").write_text(json.dumps(record))
    shutil.rmtree(sweep / "3")
    resumed = command("train", "resume_sweep=last")
    assert resumed.code == 0, resumed.err
    assert resumed.folder == sweep
    after = {job: (sweep / job / "metrics.json").read_text() for job in "0123"}
    assert [after[job] == before[job] for job in "0123"] == [True, False, True, False]
    assert all(exact(json.loads(after[job])) == exact(json.loads(before[job])) for job in "0123")
    assert ["finished: " in (sweep / job / "train.log").read_text() for job in "0123"] == [True, False, True, False]
    assert resumed.out.count(" completed: ") == 4
    with (sweep / "summary.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["completed"] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume_sweep=/nowhere"], "resume_sweep=/nowhere: not a sweep's folder"),
        (["-m", "optimizr=adam,sgd"], "there is no key optimizr. Did you mean optimizer?"),
        (["-m", "optimizer=adam,sdg"], "there is no optimizer=sdg. Did you mean sgd?"),
        (["-m", "optimizer.lr=0.1,0.2", "model.dropot=0.1"], "there is no key model.dropot."),
    ],
)
def test_sweep_that_cannot_work_is_refused_before_it_starts(words: list[str], message: str, command: Command) -> None:
    outcome = command("train", *words)
    assert outcome.code == 1
    [line] = outcome.err.strip().splitlines()
    assert line.startswith(f"error: {message}")
    assert outcome.folder is None or not list(outcome.folder.rglob("metrics.json"))


def test_resumed_sweep_takes_no_other_overrides(swept: tuple[Path, str], command: Command) -> None:
    outcome = command("train", f"resume_sweep={swept[0]}", "optimizer=sgd")
    assert outcome.code == 1
    assert "optimizer=sgd: a resumed sweep keeps its settings" in outcome.err


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(command: Command) -> None:
    words = ["data=mnist5k", "model=fast", "trainer.max_epochs=2", "trainer.precision=32-true", "rejection=none"]
    words += ["model.dropout=0"]  # whose random numbers are not the same
    plain, compiled = command("train", *words), command("train", *words, "compile=default")
    assert compiled.code == 0, compiled.err
    assert compiled.record["test/loss"] == pytest.approx(plain.record["test/loss"], rel=1e-3)
    evaluated = command("eval", f"ckpt_path={compiled.folder}")
    assert evaluated.record["test/acc"] == compiled.record["test/acc"]
