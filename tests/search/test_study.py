"""The study of a search: what it draws, how it resumes, and which databases and studies are refused."""

import math
from pathlib import Path

import optuna
import pytest
from conftest import PROJECT
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from sqlalchemy.exc import OperationalError

from digits.errors import UserError
from digits.search import study as studies
from digits.search.space import split


def space_of(*overrides: str) -> dict[str, BaseDistribution]:
    return split(OverridesParser.create().parse_overrides(list(overrides)))[1]


def drawn(storage: str, name: str, trials: int, seed: int, stops: bool) -> list[dict]:
    """What a search of a made-up task draws, in one process or in one for each trial."""
    space = space_of("lr=tag(log,interval(1e-4,1e-1))", "batch=16,32,64", "width=range(8,65,8)")

    def start() -> optuna.Study:
        sampler = studies.SeededByTrial(lambda seed: TPESampler(n_startup_trials=4, seed=seed), seed)
        return studies.open_study(storage, name, "maximize", space, sampler)

    study = start()
    for _ in range(trials):
        study = start() if stops else study
        trial = studies.draw(study, [], space)
        studies.tell(study, trial, -((math.log10(trial.params["lr"]) + 2) ** 2))
    return [trial.params for trial in study.trials]


def test_draws_depend_on_seed_and_history_alone(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    at_once = drawn(storage, "at once", 7, seed=1, stops=False)
    assert drawn(storage, "stopped", 7, seed=1, stops=True) == at_once
    assert drawn(storage, "other seed", 1, seed=100, stops=False) != at_once[:1]
    assert len({params["lr"] for params in at_once}) == 7


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
    monkeypatch.setattr(studies.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError) as caught:
        studies.open_storage(url)
    line = str(caught.value)
    assert message in line
    assert "secret" not in line
    assert "\n" not in line


def test_server_that_refuses_is_one_line_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def refuse(url: str) -> None:
        opened.append(url)
        raise OperationalError("SELECT 1", {}, Exception("connection refused\nIs the server running?"))

    monkeypatch.setattr(studies, "RDBStorage", refuse)
    monkeypatch.setattr(studies.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("PASSWORD", "s3cret/@{word}")
    url = "postgresql+psycopg://me:$PASSWORD@host/digits"
    with pytest.raises(UserError) as caught:
        studies.open_storage(url)
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
    studies.draw(studies.open_study(storage, "digits", "maximize", space, sampler), [], space)
    if message is None:
        studies.open_study(storage, "digits", direction, space_of(sweep), sampler)
        return
    with pytest.raises(UserError) as caught:
        studies.open_study(storage, "digits", direction, space_of(sweep), sampler)
    assert str(caught.value).startswith(f"the study digits is there already, {message}")
    assert str(caught.value).endswith("Give another hydra.sweeper.study_name")


def test_other_overrides_than_a_study_began_with_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study()
    studies.note_overrides(study, ["data=mnist5k"])
    studies.note_overrides(study, ["data=mnist5k"])
    assert not caplog.records
    studies.note_overrides(study, ["data=mnist"])
    assert "began with other overrides, its trials may not compare: data=mnist5k" in caplog.text
