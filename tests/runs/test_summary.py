"""The table of runs: against a sweep that was really run, and against folders made up for what is rare."""

import csv
import json
import shlex
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, call
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
    words = ["-m", "data=mnist5k", "model=fast", "trainer.max_epochs=1", "trainer.limit_train_batches=5"]
    words += ["figures=false", f"log_dir={logs}"]
    assert call("train", *words, "optimizer.lr=0.001,0.01,-1", "seed=1,2") == 1
    [folder] = (logs / "train" / "multiruns").iterdir()
    return folder


@pytest.fixture(scope="module")
def summary(swept: Path) -> Summary:
    return write_summary(swept)


def records(folder: Path) -> list[dict]:
    return [json.loads((folder / str(job) / "metrics.json").read_text()) for job in range(6)]


CONFIG = {
    "data": {"dataset": "mnist", "batch_size": 100, "folds": None, "fold": 0},
    "model": {"_target_": "digits.networks.CNN", "dropout": 0.5},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001},
    "seed": 1,
}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}


def job(folder: Path, *overrides: str, config: dict | None = None, val: float | None = None, **facts: object) -> Path:
    """Makes up a run's folder; `config` is what its overrides and its config files made other than CONFIG."""
    folder.mkdir(parents=True)
    record = {"status": "completed", "started_at": "2026-01-01", "command": ["train.py"], "overrides": overrides}
    record |= {"dataset": "mnist", "val/acc": val, "train_seconds": 2.0, "git_commit": "1" * 40} | facts
    (folder / "metrics.json").write_text(json.dumps(record))
    OmegaConf.save(OmegaConf.merge(CONFIG, config or {}), folder / "config.yaml")
    return folder


def seeds(folder: Path, setting: dict, accuracies: list[float], *overrides: str) -> None:
    """Makes up the runs of a setting, one for each accuracy."""
    for seed, accuracy in enumerate(accuracies, start=1):
        name = f"{'_'.join(overrides)}_{seed}"
        job(folder / name, *overrides, f"seed={seed}", config=setting | {"seed": seed}, val=accuracy)


def test_csv_has_a_row_for_each_job_and_what_differs(swept: Path, summary: Summary) -> None:
    with (swept / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    facts = [
        "val/acc",
        "test/acc",
        "train_seconds",
        "duration_seconds",
        "status",
        "error",
        "tested_epoch",
        "git_commit",
    ]
    assert list(rows[0]) == ["job", "optimizer.lr", "seed", *facts, "folder"]
    assert [row["job"] for row in rows] == list("012345")
    assert [(row["optimizer.lr"], row["seed"]) for row in rows[1:4]] == [("0.001", "2"), ("0.01", "1"), ("0.01", "2")]
    for row, record in zip(rows, records(swept), strict=True):
        assert row["status"] == record["status"]
        assert row["val/acc"] == str(record.get("val/acc", ""))
        assert row["error"] == record.get("error", "")
    assert "learning rate" in rows[5]["error"]


def test_seeds_are_folded_into_mean_and_sd(swept: Path, summary: Summary) -> None:
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


def test_best_setting_can_be_had_again(swept: Path, summary: Summary, command: Command) -> None:
    jobs = {lr: records(swept)[first : first + 2] for lr, first in (("0.001", 0), ("0.01", 2))}
    mean = {lr: statistics.mean(record["val/acc"] for record in each) for lr, each in jobs.items()}
    best = max(mean, key=mean.__getitem__)
    page = (swept / "summary.md").read_text()
    assert f"## Best setting by mean val/acc on mnist5k: optimizer.lr={best}" in page
    [line] = [line for line in page.splitlines() if line.startswith("python train.py ")]
    assert f"again:      {line}" in summary.text
    assert line.endswith(f"optimizer.lr={best} seed=1,2")
    paths = [line.partition(": ")[2] for line in page.splitlines() if line.startswith("- checkpoint: ")]
    assert [Path(path).name for path in paths] == ["best.ckpt"] * 2
    assert all(Path(path).exists() for path in paths)
    outcome = command("train", *shlex.split(line)[2:])
    again = [json.loads((outcome.folder / str(number) / "metrics.json").read_text()) for number in range(2)]
    for name in ("val/acc", "test/acc"):
        assert [record[name] for record in again] == [record[name] for record in jobs[best]]


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
        words = (f"log_dir=/{number}", f"resume_sweep={number}", f"callbacks.pruning.trial={number}", f"seed={number}")
        config = {"seed": number, "log_dir": f"/{number}", "callbacks": {"pruning": {"trial": number}}}
        job(tmp_path / str(number), "optimizer=sgd", *words, config=config, val=0.9 + number / 100)
    summary = summary_of(tmp_path)
    assert summary.differing == {"seed": ["0", "1", "2"]}
    [one] = summary.configurations
    assert one.figure("val/acc") == f"91.00 ± {100 * statistics.stdev([0.9, 0.91, 0.92]):.2f} %"
    assert summary.best[0].commands == ["python train.py -m optimizer=sgd seed=0,1,2"]


def test_best_is_the_better_mean_not_the_luckiest_seed(tmp_path: Path) -> None:
    seeds(tmp_path, {"optimizer": {"lr": 0.1}}, [0.90, 0.99], "optimizer.lr=0.1")
    seeds(tmp_path, {"optimizer": {"lr": 0.2}}, [0.96, 0.97], "optimizer.lr=0.2")
    summary = write_summary(tmp_path)
    assert [one.settings for one in summary.configurations] == [{"optimizer.lr": "0.2"}, {"optimizer.lr": "0.1"}]
    for text in (summary.text, (tmp_path / "summary.md").read_text()):
        assert "Best setting by mean val/acc on mnist: optimizer.lr=0.2\n" in text
        assert "96.50 ± 0.71 % (n = 2)" in text
        assert "python train.py -m optimizer.lr=0.2 seed=1,2" in text
        assert "99.00 %" not in text


def test_best_of_fewer_seeds_and_a_tie_say_so(tmp_path: Path) -> None:
    seeds(tmp_path, {"optimizer": {"lr": 0.1}}, [0.95], "optimizer.lr=0.1")
    seeds(tmp_path, {"optimizer": {"lr": 0.2}}, [0.93, 0.97], "optimizer.lr=0.2")
    seeds(tmp_path, {"optimizer": {"lr": 0.3}}, [0.8, 0.9, 0.9], "optimizer.lr=0.3")
    text = summary_of(tmp_path).text
    assert "Best setting by mean val/acc on mnist: optimizer.lr=0.1\n" in text
    assert "val/acc:    95.00 % (n = 1; others: 2, 3)" in text
    assert "a tie with: optimizer.lr=0.2\n" in text
    assert "python train.py optimizer.lr=0.1 seed=1\n" in text


def test_folds_are_folded_as_seeds_are_and_none_is_the_best(tmp_path: Path) -> None:
    for number, acc in enumerate([0.9, 0.8, 0.7]):
        config = {"data": {"folds": 3, "fold": number}}
        job(tmp_path / str(number), "data.folds=3", f"data.fold={number}", config=config, val=acc)
    summary = write_summary(tmp_path)
    assert [one.figure("val/acc") for one in summary.configurations] == ["80.00 ± 10.00 %"]
    for text in (summary.text, (tmp_path / "summary.md").read_text()):
        assert "folds" in text
        assert "Best" not in text
        assert "the folds are repetitions of one configuration" in text
        assert "ckpt" not in text


def test_same_overrides_and_an_edited_config_are_two_rows(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer=adam", val=0.9)
    job(tmp_path / "1", "optimizer=adam", config={"optimizer": {"lr": 0.01}}, val=0.8)
    assert [one.settings for one in summary_of(tmp_path).configurations] == [
        {"optimizer.lr": "0.001"},
        {"optimizer.lr": "0.01"},
    ]


def test_other_overrides_and_the_same_config_are_one_row(tmp_path: Path) -> None:
    job(tmp_path / "0", "model=cnn", "optimizer.lr=1e-3", val=0.9)
    job(tmp_path / "1", "seed=2", config={"seed": 2}, val=0.8)
    job(tmp_path / "2", "model=fast", config={"model": {"dropout": 0.25}}, val=0.7)
    found = {one.settings["model"]: len(one.jobs) for one in summary_of(tmp_path).configurations}
    assert found == {"cnn": 2, "fast": 1}


def test_job_of_a_sweep_that_wrote_no_config_has_its_planned_one(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer.lr=0.001", val=0.9)
    failed = job(tmp_path / "1", "optimizer.lr=-1", config={"optimizer": {"lr": -1}}, status="failed", error="no")
    (tmp_path / "jobs").mkdir()
    (failed / "config.yaml").rename(tmp_path / "jobs" / "1.yaml")
    summary = summary_of(tmp_path)
    assert summary.differing == {"optimizer.lr": ["0.001", "-1"]}
    assert "  1 (optimizer.lr=-1) failed: no\n" in summary.text


def test_choice_stands_for_what_follows_from_it(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer=adam", val=0.9)
    job(tmp_path / "1", "optimizer=sgd", config={"optimizer": SGD}, val=0.8)
    summary = write_summary(tmp_path)
    assert [one.settings for one in summary.configurations] == [{"optimizer": "adam"}, {"optimizer": "sgd"}]
    for text in (summary.text, (tmp_path / "summary.md").read_text()):
        assert "optimizer stands for: lr, momentum" in text


@pytest.mark.parametrize(
    ("commits", "dirty", "line"),
    [
        (["a" * 40, "a" * 40], [False, False], None),
        (["a" * 40, "b" * 40], [False, False], "code: 2 commits: aaaaaaaaa (1 run), bbbbbbbbb (1 run)"),
        (["a" * 40, None], [False, None], "code: 2 commits: aaaaaaaaa (1 run), not known (1 run)"),
        (["a" * 40, "a" * 40], [True, True], "code: commit aaaaaaaaa (2 runs); 2 runs with uncommitted changes"),
    ],
)
def test_code_that_differs_is_told_of(commits: list, dirty: list, line: str | None, tmp_path: Path) -> None:
    for number, (commit, changed) in enumerate(zip(commits, dirty, strict=True)):
        state = {"git_commit": commit, "git_dirty": changed}
        job(tmp_path / str(number), config={"seed": number}, val=0.9, **state)
    summary = write_summary(tmp_path)
    [_] = summary.configurations
    for text in (summary.text, (tmp_path / "summary.md").read_text()):
        assert [told for told in text.splitlines() if told.startswith("code: ")] == ([line] if line else [])


def test_missing_and_removed_keys(tmp_path: Path) -> None:
    job(tmp_path / "0", config={"callbacks": {"ema": {"_target_": "digits.callbacks.EMA", "decay": 0.9}}}, val=0.9)
    job(tmp_path / "1", "optimizer=sgd", "~callbacks.ema", "+x=1", config={"optimizer": SGD, "x": 1}, val=0.8)
    summary = summary_of(tmp_path)
    columns = {"optimizer": "Adam", "x": "–", "callbacks.ema": "EMA"}
    other = {"optimizer": "sgd", "x": "1", "callbacks.ema": "–"}
    assert [one.settings for one in summary.configurations] == [columns, other]
    summary.write_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["optimizer"] for row in csv.DictReader(file)] == ["Adam", "sgd"]


def test_job_without_a_config_is_not_compared(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer.lr=1", val=0.9)
    failed = job(tmp_path / "1", "optimizer.lr=abc", "seed=2", status="failed", error="UserError: no")
    (failed / "config.yaml").unlink()
    damaged = job(tmp_path / "2", "optimizer.lr=3", val=0.95)
    (damaged / "config.yaml").write_text("[")
    summary = summary_of(tmp_path)
    assert summary.differing == {}
    assert len(summary.configurations) == 1
    assert "  1 (optimizer.lr=abc) failed: UserError: no; its config.yaml is missing or damaged\n" in summary.text
    assert "  2 (optimizer.lr=3) completed: its config.yaml is missing or damaged\n" in summary.text


def test_repeated_seed_is_no_second_sample(tmp_path: Path) -> None:
    job(tmp_path / "0", val=0.9, started_at="2026-01-02")
    job(tmp_path / "1", val=0.8, started_at="2026-01-01")
    summary = summary_of(tmp_path)
    [one] = summary.configurations
    assert one.figure("val/acc") == "90.00 %"
    assert "repeated with the same seed: 1 run, of which the latest counts" in summary.text


def test_data_sets_are_told_apart(tmp_path: Path) -> None:
    job(tmp_path / "0", val=0.9)
    job(tmp_path / "1", val=0.99, dataset="mnist5k", config={"data": {"dataset": "mnist5k"}})  # the fall-back
    summary = write_summary(tmp_path)
    found = [(one.dataset, one.settings, len(one.jobs)) for one in summary.configurations]
    assert found == [("mnist", {}, 1), ("mnist5k", {}, 1)]
    assert "data set" in summary.text
    assert "Best job by val/acc on mnist: 0" in summary.text
    assert "Best job by val/acc on mnist5k: 1" in summary.text
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert [row["dataset"] for row in csv.DictReader(file)] == ["mnist", "mnist5k"]


def test_without_validation_no_job_is_named_the_best(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer=adam", **{"test/acc": 0.9})
    job(tmp_path / "1", "optimizer=sgd", config={"optimizer": SGD}, **{"test/acc": 0.8})
    summary = write_summary(tmp_path)
    assert not summary.best
    assert "No best job: none has a val/acc" in summary.text
    assert (tmp_path / "summary.png").exists()


def test_unfinished_and_damaged_runs_are_listed(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer=adam", val=0.9)
    for number, status in enumerate(("running", "interrupted", "pruned"), start=1):
        job(tmp_path / str(number), "optimizer=sgd", config={"optimizer": SGD}, status=status, error="a | b")
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
    [line] = best.commands
    assert shlex.split(line)[2:] == ["hydra.mode=RUN", *best.jobs[0].run.overrides]


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


def test_a_name_is_a_column_and_no_setting(tmp_path: Path) -> None:
    for seed, name in ((1, "first"), (2, "second"), (3, None)):
        own = [f"name={name}"] if name else []
        config = {"seed": seed, "name": name, "tags": [str(seed)]}
        job(tmp_path / str(seed), *own, f"seed={seed}", config=config, val=0.9, name=name, tags=[str(seed)])
    summary = summary_of(tmp_path)
    [configuration] = summary.configurations
    assert len(configuration.jobs) == 3
    assert summary._table()[0][0] == "name"
    assert summary._table()[1][0] == "first, second"
    assert configuration.commands == ["python train.py -m seed=1,2,3"]
    assert summary.differing.keys() == {"seed"}


def test_metrics_of_ones_own_have_columns(tmp_path: Path) -> None:
    kappa = {"label": "kappa", "direction": "max", "stages": ["val", "test"], "percent": False, "prominent": True}
    acc = {"label": "accuracy", "direction": "max", "stages": ["train", "val", "test"], "percent": True}
    known = {"kappa": kappa, "acc": acc | {"prominent": True}, "f1": acc | {"prominent": False}}
    for number, value in enumerate((0.75, 0.85)):
        figures = {"val/kappa": value, "test/kappa": value - 0.1, "val/f1": 0.5}
        job(tmp_path / str(number), config={"seed": number}, val=0.9, metrics=known, **figures)
    summary = summary_of(tmp_path)
    assert list(summary.metrics) == ["val/acc", "test/acc", "val/kappa", "test/kappa"]
    assert f"0.8000 ± {statistics.stdev([0.75, 0.85]):.4f}" in summary.markdown("a sweep")
    summary.write_csv(tmp_path / "s.csv")
    [row, _] = csv.DictReader((tmp_path / "s.csv").open())
    assert (row["val/kappa"], row["test/kappa"]) == ("0.75", "0.65")
