"""The table of runs: against a sweep that was really run, and against folders made up for what is rare."""

import csv
import importlib
import json
import shlex
import statistics
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from omegaconf import OmegaConf
from PIL import Image

from digits.errors import UserError
from digits.figures import sweep
from digits.runs.summary import Summary, read_runs, write_summary


def summary_of(*paths: Path) -> Summary:
    return Summary(read_runs(*paths))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep: two learning rates that train, one that cannot; two seeds. Not to be changed."""
    logs = tmp_path_factory.mktemp("swept")
    words = ["-m", "data=mnist5k", "trainer.max_epochs=1", "trainer.limit_train_batches=5", f"log_dir={logs}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *words, "optimizer.lr=0.001,0.01,-1", "seed=1,2"])
        with pytest.raises(SystemExit):
            importlib.import_module("train").main()
    [folder] = (logs / "train" / "multiruns").iterdir()
    return folder


@pytest.fixture(scope="module")
def summary(swept: Path) -> Summary:
    return write_summary(swept)


def records(folder: Path) -> list[dict]:
    return [json.loads((folder / str(job) / "metrics.json").read_text()) for job in range(6)]


def job(folder: Path, *overrides: str, val: float | None = None, test: float | None = None, **facts: object) -> Path:
    """Makes up a run's folder."""
    folder.mkdir(parents=True)
    record = {"status": "completed", "started_at": "2026-01-01", "command": ["train.py"], "overrides": overrides}
    record |= {"seed": 1, "dataset": "mnist", "val/acc": val, "test/acc": test, "train_seconds": 2.0} | facts
    (folder / "metrics.json").write_text(json.dumps(record))
    return folder


def test_csv_has_a_row_for_each_job_and_what_differs(swept: Path, summary: Summary) -> None:
    with (swept / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    facts = ["val/acc", "test/acc", "train_seconds", "duration_seconds", "status", "error", "tested_epoch", "folder"]
    assert list(rows[0]) == ["job", "optimizer.lr", "seed", *facts]
    assert [row["job"] for row in rows] == list("012345")
    assert [(row["optimizer.lr"], row["seed"]) for row in rows[1:4]] == [("0.001", "2"), ("0.01", "1"), ("0.01", "2")]
    for row, record in zip(rows, records(swept), strict=True):
        assert row["status"] == record["status"]
        assert row["val/acc"] == str(record.get("val/acc", ""))
        assert row["error"] == record.get("error", "")
    assert "learning rate" in rows[5]["error"]


def test_seeds_are_folded_into_mean_and_deviation(swept: Path, summary: Summary) -> None:
    one = records(swept)
    expected = {}
    for lr, jobs in {"0.001": one[:2], "0.01": one[2:4]}.items():
        for name in ("val/acc", "test/acc"):
            values = 100 * np.array([record[name] for record in jobs])
            expected[lr, name] = f"{values.mean():.2f} ± {values.std(ddof=1):.2f} %"
    page = (swept / "summary.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| 0.0")]
    assert len(rows) == 2
    for row in rows:
        lr, val, test, seeds, _ = row.strip("| ").split(" | ")
        assert (val, test, seeds) == (expected[lr, "val/acc"], expected[lr, "test/acc"], "2")
        assert val in summary.text
    means = [float(row.split(" | ")[1].split()[0]) for row in rows]
    assert means == sorted(means, reverse=True)


def test_failed_jobs_are_listed_with_their_error(swept: Path, summary: Summary) -> None:
    assert summary.failed == 2
    page = (swept / "summary.md").read_text()
    for text in (page, summary.text):
        assert text.count("learning rate") == 2
        assert "optimizer.lr=-1 seed=2" in text
    assert "6 jobs: 4 completed, 2 failed" in page
    assert "differing: `optimizer.lr`: 0.001, 0.01, -1" in page
    assert "`trainer.limit_train_batches=5`" in page


def test_best_job_can_be_had_again(swept: Path, summary: Summary, command: Command) -> None:
    best = max(records(swept)[:4], key=lambda record: record["val/acc"])
    page = (swept / "summary.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("python train.py ")]
    assert f"again:      {line}" in summary.text
    outcome = command("train", *shlex.split(line)[2:])
    assert outcome.record["val/acc"] == best["val/acc"]
    assert outcome.record["test/acc"] == best["test/acc"]
    [path] = [line.partition(": ")[2] for line in page.splitlines() if line.startswith("- checkpoint: ")]
    assert Path(path).name == "best.ckpt"
    assert Path(path).exists()


def test_figure_is_written_and_nothing_half_done_is_left(swept: Path, summary: Summary) -> None:
    with Image.open(swept / "summary.png") as picture:
        assert min(picture.size) > 200
    assert not list(swept.glob("*.part"))


def test_jobs_are_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1, 0, 11):
        job(tmp_path / str(number))
    assert [run.name for run in read_runs(tmp_path)] == ["0", "1", "9", "10", "11"]


def test_what_is_no_setting_does_not_differ(tmp_path: Path) -> None:
    for number in range(3):
        words = (f"log_dir=/{number}", f"resume_sweep={number}", f"callbacks.pruning.trial={number}")
        job(tmp_path / str(number), "optimizer=sgd", *words, f"seed={number}", val=0.9 + number / 100, seed=number)
    summary = summary_of(tmp_path)
    assert summary.differing == {"seed": ["0", "1", "2"]}
    [one] = summary.configurations
    assert one.accuracy("val/acc") == f"91.00 ± {100 * statistics.stdev([0.9, 0.91, 0.92]):.2f} %"
    assert summary.best[0].command == "python train.py optimizer=sgd seed=2"


def test_folds_are_folded_as_seeds_are(tmp_path: Path) -> None:
    for number, acc in enumerate([0.9, 0.8, 0.7]):
        job(tmp_path / str(number), "data.folds=3", f"data.fold={number}", val=acc)
    summary = summary_of(tmp_path)
    assert [one.accuracy("val/acc") for one in summary.configurations] == ["80.00 ± 10.00 %"]
    assert "folds" in summary.text


def test_missing_and_removed_keys(tmp_path: Path) -> None:
    job(tmp_path / "0", val=0.9)
    job(tmp_path / "1", "optimizer=sgd", "~logger.tensorboard", "+trainer.x=1", val=0.8)
    summary = summary_of(tmp_path)
    columns = {"optimizer": "default", "logger.tensorboard": "default", "trainer.x": "default"}
    other = {"optimizer": "sgd", "logger.tensorboard": "removed", "trainer.x": "1"}
    assert [one.settings for one in summary.configurations] == [columns, other]
    summary.write_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["optimizer"] for row in csv.DictReader(file)] == ["", "sgd"]


def test_job_that_failed_on_its_overrides_has_no_other_seed(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer.lr=1", val=0.9)
    folder = tmp_path / "1"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- optimizer.lr=abc\n- log_dir=${x}\n")
    (folder / "metrics.json").write_text('{"status": "failed", "error": "UserError: no", "command": ["train.py"]}')
    assert summary_of(tmp_path).differing == {"optimizer.lr": ["1", "abc"]}


def test_repeated_seed_is_no_second_sample(tmp_path: Path) -> None:
    job(tmp_path / "0", val=0.9, started_at="2026-01-02")
    job(tmp_path / "1", val=0.8, started_at="2026-01-01")
    [one] = summary_of(tmp_path).configurations
    assert one.accuracy("val/acc") == "90.00 %"


def test_data_sets_are_told_apart(tmp_path: Path) -> None:
    job(tmp_path / "0", val=0.9)
    job(tmp_path / "1", val=0.99, dataset="mnist5k")  # the fall-back: the same overrides, other data
    summary = write_summary(tmp_path)
    assert [(one.dataset, len(one.runs)) for one in summary_of(tmp_path).configurations] == [
        ("mnist", 1),
        ("mnist5k", 1),
    ]
    assert "data set" in summary.text
    assert "Best job by val/acc on mnist: 0" in summary.text
    assert "Best job by val/acc on mnist5k: 1" in summary.text
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert [row["dataset"] for row in csv.DictReader(file)] == ["mnist", "mnist5k"]


def test_without_validation_no_job_is_named_the_best(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer=adam", test=0.9)
    job(tmp_path / "1", "optimizer=sgd", test=0.8)
    summary = write_summary(tmp_path)
    assert not summary.best
    assert "No best job: none has a val/acc" in summary.text
    assert (tmp_path / "summary.png").exists()


def test_unfinished_and_damaged_runs_are_listed(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer=adam", val=0.9)
    for number, status in enumerate(("running", "interrupted", "pruned"), start=1):
        job(tmp_path / str(number), "optimizer=sgd", status=status, error="a | b")
    for number, content in enumerate(("{", "[]", '{"command": []}'), start=4):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "metrics.json").write_text(content)
    summary = write_summary(tmp_path)
    assert [run.status for run in summary.incomplete] == ["crashed", "interrupted", "pruned", *["unreadable"] * 3]
    assert summary.failed == 5
    assert summary.differing == {"optimizer": ["adam", "sgd"]}
    assert r"a \| b" in (tmp_path / "summary.md").read_text()


def test_sweep_of_failures_alone_has_a_table_and_no_figure(tmp_path: Path) -> None:
    job(tmp_path / "0", status="failed", error="no")
    assert write_summary(tmp_path).failed == 1
    assert not (tmp_path / "summary.png").exists()


def test_search_is_not_started_by_its_best_trials_command(tmp_path: Path) -> None:
    job(tmp_path / "0", "hparams_search=optuna", "model.channels=[8,16]", "note=it's", val=0.9)
    [best] = summary_of(tmp_path).best
    assert shlex.split(best.command)[2:] == ["hydra.mode=RUN", *best.overrides]


def test_evaluations_are_left_out(tmp_path: Path) -> None:
    job(tmp_path / "train")
    job(tmp_path / "eval", command=["eval.py"])
    assert [run.name for run in read_runs(tmp_path)] == ["train"]


def test_run_below_two_paths_counts_once(tmp_path: Path) -> None:
    job(tmp_path / "a" / "0")
    assert len(read_runs(tmp_path, tmp_path / "a")) == 1


@pytest.mark.parametrize("make", [False, True])
def test_nothing_there_is_an_error(make: bool, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if make:
        folder.mkdir()
    with pytest.raises(UserError, match=r"folder: no (such folder|training run)"):
        read_runs(folder)


@pytest.mark.parametrize("configurations", [1, 2, 8, 40])
def test_rows_of_the_figure_do_not_overlap(configurations: int) -> None:
    label = "optimizer=adam model.channels=[32,64,128] augmentation.degrees=15 scheduler=onecycle {}"
    values = {"validation": [0.99, 0.992], "test": [0.98, 0.985]}
    figure = sweep({label.format(i): values for i in range(configurations)}, "a sweep")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for labels in (axes.get_yticklabels(), axes.child_axes[0].get_yticklabels()):
        boxes = [text.get_window_extent() for text in labels]
        assert len(boxes) == configurations
        assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_figure_has_its_points() -> None:
    accuracies = {"a": {"validation": [0.99, 0.97], "test": [0.96, 0.98]}, "b": {"validation": [0.95], "test": []}}
    axes = sweep(accuracies, "a sweep").axes[0]
    points = {(x, round(y)) for line in axes.lines for x, y in line.get_xydata().tolist()}
    assert {(0.99, 0), (0.97, 0), (0.96, 0), (0.95, 1)} <= points
    assert axes.yaxis_inverted()
    low, high = axes.get_xlim()
    assert low < 0.95 < 0.99 < high < 1.01


def test_hopeless_configuration_does_not_hide_the_others() -> None:
    good = {"validation": [0.99], "test": [0.99]}
    axes = sweep(
        {"a": good, "b": {"validation": [0.98], "test": [0.98]}, "c": {"validation": [0.1], "test": [0.1]}}, ""
    ).axes[0]
    a, b, c = (axes.transAxes.inverted().transform(axes.transData.transform((x, 0)))[0] for x in (0.99, 0.98, 0.1))
    assert 0 < c < b < a < 1
    assert a - b > 0.05


def test_what_was_typed_folds_with_what_is_so_by_default(tmp_path: Path) -> None:
    for number, words in enumerate((["model=cnn", "optimizer.lr=0.001"], [], ["model=fast"])):
        folder = tmp_path / str(number)
        job(folder, *words, seed=number, val=0.9)
        chosen = {"model": "fast" if "model=fast" in words else "cnn"}
        (folder / ".hydra").mkdir(exist_ok=True)
        OmegaConf.save({"hydra": {"runtime": {"choices": chosen}}}, folder / ".hydra" / "hydra.yaml")
        OmegaConf.save({"optimizer": {"lr": 0.001}}, folder / "config.yaml")
    found = {one.settings["model"]: len(one.runs) for one in summary_of(tmp_path).configurations}
    assert found == {"cnn": 2, "fast": 1}
