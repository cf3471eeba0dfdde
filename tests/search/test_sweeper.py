"""Searches on the embedded digits, by train.py: they resume, prune, survive failures and refuse bad settings."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from conftest import PROJECT, Command, Outcome
from optuna.trial import TrialState, create_trial

TINY = ("hparams_search=optuna", "data=mnist5k", "model=fast", "trainer=cpu", "trainer.limit_train_batches=5")
TINY += ("figures=false", "rejection=none")


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


def test_stopped_search_resumes_and_its_best_can_be_had_again(command: Command, tmp_path: Path) -> None:
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
    assert [outcome.out.count(" completed: ") for outcome in (first, second, third)] == [2, 1, 0]
    assert "job 2 starts: optimizer=" in second.out
    assert "all 3 trials are finished" in third.out
    assert f"best: trial {study.best_trial.number}, val/acc {study.best_value:.4f}" in third.out

    [line] = [line for line in third.out.splitlines() if "train it again: python train.py " in line]
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
    assert "job 6 pruned: " in outcome.out
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
    runs = [text.count(" completed: ") for text in printed]
    assert min(runs) > 0
    assert sum(runs) == len(trials) == len(list(tmp_path.glob("train/searches/digits/*/metrics.json")))


ERRORS = {
    "optimizr=interval(0,1)": "there is no key optimizr. Did you mean optimizer?",
    "optimizer=adam,sdg": "there is no optimizer=sdg. Did you mean sgd?",
    "optimizer.lr=interval(1,0.1)": "optimizer.lr=interval(1,0.1): `low <= high` must hold, but got",
    "hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials=0: should be greater than 0",
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


def test_quick_answers_import_nothing_slow(tmp_path: Path) -> None:
    cases = [
        (["--help"], {"optuna", "sqlalchemy", "torch"}),
        (["hparams_search=optuna", "optimizr=1,2"], {"torch", "lightning"}),
    ]
    code = f"""
import sys
import train
for words, slow in {cases!r}:
    sys.argv = ["train.py", *words, "log_dir={tmp_path}"]
    try:
        train.main()
    except SystemExit:
        pass
    print("slow imports:", slow & sys.modules.keys())
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert answer.stdout.count("slow imports: set()") == len(cases), answer.stderr
