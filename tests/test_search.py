"""Searches: real ones on the embedded digits, and what they draw, share, prune and refuse."""

import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from conftest import PROJECT, Command, Outcome
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import OperationalError

from digits.errors import Pruned, UserError
from digits.search import study as search
from digits.search.trial_pruning import TrialPruning

TINY = ("hparams_search=optuna", "data=mnist5k", "trainer=cpu", "trainer.limit_train_batches=5")


def study_of(logs: Path, name: str = "digits") -> optuna.Study:
    return optuna.create_study(
        storage=f"sqlite:///{logs}/optuna.db", study_name=name, direction="maximize", load_if_exists=True
    )


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def error(outcome: Outcome) -> str:
    assert outcome.code == 1
    [line] = outcome.err.strip().splitlines()
    return line.removeprefix("error: ")


def test_stopped_search_goes_on_and_its_best_can_be_had_again(command: Command, tmp_path: Path) -> None:
    words = (*TINY, "trainer.max_epochs=1")
    first = command("train", *words, "hydra.sweeper.n_trials=2")
    assert (first.code, first.err) == (0, "")
    second = command("train", "-m", *words, "hydra.sweeper.n_trials=3")
    third = command("train", *words, "hydra.sweeper.n_trials=3")

    study = study_of(tmp_path / "logs")
    assert states(study) == ["COMPLETE"] * 3
    folder = tmp_path / "logs" / "train" / "searches" / "digits"
    records = [json.loads((folder / str(i) / "metrics.json").read_text()) for i in range(3)]
    assert [trial.value for trial in study.trials] == [record["val/acc"] for record in records]
    assert [trial.intermediate_values for trial in study.trials] == [{1: trial.value} for trial in study.trials]
    for trial, record in zip(study.trials, records, strict=True):
        assert f"optimizer.lr={trial.params['optimizer.lr']}" in record["overrides"]
        assert f"callbacks.pruning.trial={trial.number}" in record["overrides"]
    assert [outcome.out.count("run:    ") for outcome in (first, second, third)] == [2, 1, 0]
    assert "all 3 trials are finished" in third.out
    assert f"best: trial {study.best_trial.number}, val/acc {study.best_value:.4f}" in third.out

    [line] = [line for line in third.out.splitlines() if "once more: python train.py " in line]
    again = command("train", *shlex.split(line.partition("train.py ")[2]))
    assert again.folder.parent.name == "runs"
    assert again.record["val/acc"] == study.best_value
    assert len(study.get_trials()) == 3


def test_hopeless_trial_is_pruned(command: Command, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    study = study_of(tmp_path / "logs")
    for _ in range(5):
        study.add_trial(create_trial(value=0.97, intermediate_values=dict.fromkeys(range(1, 5), 0.97)))
    study.ask()  # left running, by a process that was killed
    outcome = command("train", *TINY, "trainer.max_epochs=4", "optimizer.lr=1e-7", "hydra.sweeper.n_trials=6")
    assert (outcome.code, outcome.err) == (0, "")
    assert states(study) == ["COMPLETE"] * 5 + ["RUNNING", "PRUNED"]
    pruned = study.trials[6]
    assert "trial 6: pruned, val/acc " in outcome.out
    record = json.loads((outcome.folder / "6" / "metrics.json").read_text())
    assert record["status"] == "pruned"
    assert record["error"] == f"trial 6 pruned after epoch 2: val/acc {pruned.value:.4f}"
    assert list(pruned.intermediate_values) == [1, 2]
    assert len((outcome.folder / "6" / "metrics.csv").read_text().splitlines()) == 1 + 2


def test_failed_trial_does_not_stop_the_search(command: Command, tmp_path: Path) -> None:
    size = ("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=3")
    outcome = command("train", *TINY, "trainer.max_epochs=1", "model.dropout=0.5,2", *size)
    study = study_of(tmp_path / "logs")
    expected = ["FAIL" if trial.params["model.dropout"] == 2 else "COMPLETE" for trial in study.trials]
    assert states(study) == expected
    assert "COMPLETE" in expected[expected.index("FAIL") :]
    assert len(expected) == 4
    assert outcome.code == 1
    assert "dropout=2: should be less than or equal to 1" in outcome.err
    assert "best: trial" in outcome.out


def test_trial_without_a_value_failed(command: Command, tmp_path: Path) -> None:
    words = ("~callbacks.pruning", "trainer.limit_val_batches=0", "trainer.max_epochs=1", "hydra.sweeper.n_trials=1")
    outcome = command("train", *TINY, *words)
    assert error(outcome) == "a trial returned no val/acc: was there a validation?"
    assert states(study_of(tmp_path / "logs")) == ["FAIL"]


def test_interrupted_trial_does_not_stay_running(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from digits import report

    def interrupt(data: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "data_statistics", interrupt)
    assert command("train", *TINY).code == 130
    assert states(study_of(tmp_path / "logs")) == ["FAIL"]


@pytest.mark.slow
def test_two_processes_share_a_search(tmp_path: Path) -> None:
    words = [*TINY, "trainer.max_epochs=1", "hydra.sweeper.n_trials=4", f"log_dir={tmp_path}"]
    both = [
        subprocess.Popen([sys.executable, "train.py", *words], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    trials = study_of(tmp_path).trials
    assert len(trials) in (4, 5)  # 5: each had begun its last one
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({trial.params["optimizer.lr"] for trial in trials}) == len(trials)
    runs = [text.count("run:    ") for text in printed]
    assert min(runs) > 0
    assert sum(runs) == len(trials) == len(list(tmp_path.glob("train/searches/digits/*/metrics.json")))


def space_of(*overrides: str) -> dict[str, BaseDistribution]:
    return search.split(OverridesParser.create().parse_overrides(list(overrides)))[1]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("a,b", CategoricalDistribution(("a", "b"))),
        ("adam,'s g d'", CategoricalDistribution(("adam", "'s g d'"))),
        ("1,0.5,true,null", CategoricalDistribution((1, 0.5, True, None))),
        ("[16,32],[32]", CategoricalDistribution(("[16,32]", "[32]"))),
        ("interval(0.1,0.6)", FloatDistribution(0.1, 0.6)),
        ("interval(1,4)", FloatDistribution(1, 4)),
        ("tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("int(interval(16,256))", IntDistribution(16, 256)),
        ("tag(log,int(interval(16,256)))", IntDistribution(16, 256, log=True)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(32,129,32)", IntDistribution(32, 128, step=32)),
        ("range(32,128,32)", IntDistribution(32, 96, step=32)),
        ("range(3,0,-1)", IntDistribution(1, 3)),
        ("tag(log,range(1,9))", IntDistribution(1, 8, log=True)),
        ("range(0,0.5,0.1)", FloatDistribution(0, 0.4, step=0.1)),
        ("range(0,0.3,0.1)", FloatDistribution(0, 0.2, step=0.1)),
        ("range(0.1,0.45,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
    ],
)
def test_sweeps_become_distributions(sweep: str, expected: BaseDistribution) -> None:
    space = space_of(f"key={sweep}")
    trial = search.draw(optuna.create_study(), ["fixed=1"], space)
    [frozen] = trial.study.trials
    assert frozen.distributions == {"key": expected}
    assert type(frozen.params["key"]) in (
        {int} if isinstance(expected, IntDistribution) else {float, str, bool, int, type(None)}
    )
    # As an override it is the value that was drawn.
    [fixed, word] = trial.user_attrs["overrides"]
    [override] = OverridesParser.create().parse_overrides([word])
    assert fixed == "fixed=1"
    assert not override.is_sweep_override()
    if not isinstance(frozen.params["key"], str):
        assert override.value() == frozen.params["key"]


@pytest.mark.parametrize(
    "sweep", ["range(1,10,3)", "range(1,11,3)", "range(0,1,0.25)", "range(5,-5,-2)", "range(0,1,0.1)"]
)
def test_range_ends_where_hydras_does(sweep: str) -> None:
    [override] = OverridesParser.create().parse_overrides([f"key={sweep}"])
    values = list(override.sweep_iterator())
    drawn = space_of(f"key={sweep}")["key"]
    assert (drawn.low, drawn.high) == pytest.approx((min(values), max(values)))
    assert drawn.step == pytest.approx(abs(values[1] - values[0]))


def test_later_override_counts_and_samples_name_each_choice() -> None:
    overrides = ["optimizer=adam,sgd", "lr=interval(1,2)", "seed=3", "dropout=0.1,0.2,0.3", "lr=5", "~scheduler"]
    fixed, space = search.split(OverridesParser.create().parse_overrides(overrides))
    assert fixed == ["lr=5", "seed=3", "~scheduler"]
    assert list(space) == ["optimizer", "dropout"]
    assert list(search.samples(space)) == [
        ["optimizer=adam", "dropout=0.1"],
        ["optimizer=sgd", "dropout=0.2"],
        ["optimizer=adam", "dropout=0.3"],
    ]


def drawn(storage: str, name: str, trials: int, seed: int, stops: bool) -> list[dict]:
    """What a search of a made-up task draws, in one process or in one for each trial."""
    space = space_of("lr=tag(log,interval(1e-4,1e-1))", "batch=16,32,64", "width=range(8,65,8)")

    def start() -> optuna.Study:
        sampler = search.SeededByTrial(lambda seed: TPESampler(n_startup_trials=4, seed=seed), seed)
        return search.open_study(storage, name, "maximize", space, sampler)

    study = start()
    for _ in range(trials):
        study = start() if stops else study
        trial = search.draw(study, [], space)
        search.tell(study, trial, -((math.log10(trial.params["lr"]) + 2) ** 2))
    return [trial.params for trial in study.trials]


def test_draws_depend_on_seed_and_history_alone(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    at_once = drawn(storage, "at once", 7, seed=1, stops=False)
    assert drawn(storage, "stopped", 7, seed=1, stops=True) == at_once
    assert drawn(storage, "other seed", 1, seed=100, stops=False) != at_once[:1]
    assert len({params["lr"] for params in at_once}) == 7


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("interval(1,0.1)", "1.0 is not below 0.1"),
        ("interval(1,1)", "1.0 is not below 1.0"),
        ("tag(log,interval(0,1))", "a logarithmic interval has to start above 0, not at 0.0"),
        ("range(64,64)", "the range is empty"),
        ("range(9,1)", "the range is empty"),
        ("range(1,9,0)", "its step is 0"),
        ("tag(log,range(0,9))", "a logarithmic range has to start above 0, not at 0"),
        ("tag(log,range(1,9,2))", "a logarithmic range has no step: use an interval"),
        ("glob(nothing*)", "there is nothing to choose from"),
    ],
)
def test_space_without_values_is_refused(sweep: str, message: str) -> None:
    parser = OverridesParser.create(config_loader=SimpleNamespace(get_group_options=lambda *_, **__: ["adam", "sgd"]))
    with pytest.raises(UserError) as caught:
        search.split(parser.parse_overrides([f"optimizer={sweep}"]))
    assert str(caught.value) == f"optimizer={sweep}: {message}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("optuna.db", "hydra.sweeper.storage is no URL such as sqlite:///logs/optuna.db"),
        ("sqlite://", "storage=sqlite://: the trials cannot see a study in memory. Name a file"),
        ("sqlite:////proc/optuna.db", "storage=sqlite:////proc/optuna.db: cannot be opened (unable to open"),
        ("sqlite:////dev/null/optuna.db", "storage=sqlite:////dev/null/optuna.db: cannot be opened ([Errno"),
        ("sqlite:///pyproject.toml", "storage=sqlite:///pyproject.toml: cannot be opened (file is not a database)"),
        ("nosuch://me@host/db", "storage=nosuch://me@host/db: cannot be opened (Can't load plugin"),
        ("postgresql+pg8000://me@host/db", "No module named 'pg8000': install the driver. PostgreSQL: uv sync"),
        ("postgresql://me:secret@host/db", "Put it into an environment variable"),
        ("postgresql:///db?password=secret", "Put it into an environment variable"),
    ],
)
def test_storage_that_cannot_be_opened_is_named(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(search.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError) as caught:
        search.open_storage(url)
    line = str(caught.value)
    assert message in line
    assert "secret" not in line
    assert "\n" not in line


ERRORS = {
    "optimizr=interval(0,1)": "there is no key optimizr. Did you mean optimizer?",
    "optimizer=adam,sdg": "there is no optimizer=sdg. Did you mean sgd?",
    "optimizer.lr=interval(1,0.1)": "optimizer.lr=interval(1,0.1): 1.0 is not below 0.1",
    "hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials=0: should be greater than or equal to 1",
    "hydra.sweeper.n_jobs=many": "hydra.sweeper.n_jobs=many: should be a valid integer",
    "hydra.sweeper.seed=null": "hydra.sweeper.seed=null: should be a valid integer",
    "hydra.sweeper.study_name=": "hydra.sweeper.study_name='': ",
    "hydra.sweeper.direction=up": "hydra.sweeper.direction=up: should be 'maximize' or 'minimize'",
    "hydra.sweeper.storage=postgresql://me:secret@host/db": "Put it into an environment variable",
}


@pytest.mark.parametrize("override", ERRORS)
def test_bad_search_is_one_line(override: str, command: Command, tmp_path: Path) -> None:
    line = error(command("train", "hparams_search=optuna", override))
    assert ERRORS[override] in line
    assert "secret" not in line
    assert not list(tmp_path.rglob("*.db"))


def test_empty_space_is_one_line(command: Command) -> None:
    fixed = ("optimizer=sgd", "optimizer.lr=0.1", "data.batch_size=64", "model.dropout=0.5")
    assert error(command("train", "hparams_search=optuna", *fixed)).startswith("nothing to search: ")


def test_server_that_refuses_is_one_line_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def refuse(url: str) -> None:
        opened.append(url)
        raise OperationalError("SELECT 1", {}, Exception("connection refused\nIs the server running?"))

    monkeypatch.setattr(search, "RDBStorage", refuse)
    monkeypatch.setattr(search.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("PASSWORD", "s3cret/@{word}")
    url = "postgresql+psycopg://me:$PASSWORD@host/digits"
    with pytest.raises(UserError) as caught:
        search.open_storage(url)
    assert str(caught.value) == f"hydra.sweeper.storage={url}: cannot be opened (connection refused)"
    assert opened == ["postgresql+psycopg://me:s3cret%2F%40%7Bword%7D@host/digits"] * 2


@pytest.mark.parametrize(
    ("direction", "sweep", "message"),
    [
        ("minimize", "dropout=interval(0.1,0.6)", "to maximize"),
        ("maximize", "dropout=0.1,0.2", "with dropout from FloatDistribution(high=0.6, log=False, low=0.1, step=None)"),
        ("maximize", "dropout=tag(log,interval(0.1,0.6))", "with dropout from FloatDistribution("),
        ("maximize", "batch_size=64,128", "with batch_size from CategoricalDistribution(choices=(32, 64)), not "),
        ("maximize", "dropout=interval(0.2,0.9)", None),
    ],
)
def test_study_of_another_kind_is_refused(direction: str, sweep: str, message: str | None, tmp_path: Path) -> None:
    storage, sampler = f"sqlite:///{tmp_path}/optuna.db", optuna.samplers.RandomSampler(seed=1)
    space = space_of("dropout=interval(0.1,0.6)", "batch_size=32,64")
    search.draw(search.open_study(storage, "digits", "maximize", space, sampler), [], space)
    if message is None:
        search.open_study(storage, "digits", direction, space_of(sweep), sampler)
        return
    with pytest.raises(UserError) as caught:
        search.open_study(storage, "digits", direction, space_of(sweep), sampler)
    assert str(caught.value).startswith(f"the study digits is there already, {message}")
    assert str(caught.value).endswith("Give another hydra.sweeper.study_name")


def test_other_overrides_than_a_study_began_with_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study()
    search.note_overrides(study, ["data=mnist5k"])
    search.note_overrides(study, ["data=mnist5k"])
    assert not caplog.records
    search.note_overrides(study, ["data=mnist"])
    assert "began with other overrides, its trials may not compare: data=mnist5k" in caplog.text


def test_processes_end_together_and_the_first_decides() -> None:
    """A process that is not the first needs no database: it does as it is told."""
    pruning = TrialPruning("sqlite:////nowhere/optuna.db", "digits", trial=7, pruner=optuna.pruners.NopPruner())
    trainer = SimpleNamespace(
        is_global_zero=False,
        sanity_checking=False,
        current_epoch=0,
        callback_metrics={"val/acc": torch.tensor(0.25)},
        strategy=SimpleNamespace(broadcast=lambda mine: True),
    )
    pruning.on_train_epoch_start(trainer, None)  # nothing to decide yet
    pruning.on_validation_end(trainer, None)
    pruning.on_train_epoch_end(trainer, None)
    trainer.current_epoch = 1
    with pytest.raises(Pruned) as caught:
        pruning.on_train_epoch_start(trainer, None)
    assert str(caught.value) == "trial 7 pruned after epoch 1: val/acc 0.2500"


@pytest.mark.parametrize(
    ("words", "slow"),
    [
        (["--help"], {"optuna", "sqlalchemy", "torch"}),
        (["hparams_search=optuna", "optimizr=1,2"], {"torch", "lightning"}),
    ],
)
def test_quick_answers_import_nothing_slow(words: list[str], slow: set[str], tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["train.py", *{words!r}, "log_dir={tmp_path}"]
import train
try:
    train.main()
except SystemExit:
    pass
print("slow imports:", {slow} & sys.modules.keys())
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert "slow imports: set()" in answer.stdout, answer.stderr
