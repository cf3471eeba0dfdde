"""The study of a search: the database in which Optuna keeps its trials, and what each trial draws."""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, NonNegativeInt, PositiveInt
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from digits.errors import UserError
from digits.search.space import as_overrides
from digits.validation import Name, Settings

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)  # the sweeper itself logs one line per trial


class SearchSettings(Settings):
    """The settings of a search."""

    study_name: Annotated[Name, Field(min_length=1)]  # names the study in its database, by which a search resumes
    storage: str  # URL of the database, see `open_storage`
    n_trials: PositiveInt  # finished trials in the study, from all searches on it together
    n_jobs: PositiveInt  # trials launched at once; the launcher decides how many of them run at once
    direction: Literal["maximize", "minimize"]  # of what the task returns
    seed: NonNegativeInt  # of the draws; the runs have their own `seed`


class SeededByTrial(BaseSampler):
    """Draws each trial with its own sampler, seeded with `seed` plus the trial's number.

    So a search that is resumed draws the values that it would have drawn, and machines that share a study do not start
    with the same ones.

    Args:
        make: makes the sampler from a `seed`.
        seed: of the whole search.
    """

    def __init__(self, make: Callable[..., BaseSampler], seed: int) -> None:
        self.make = make
        self.seed = seed
        self.sampler = make(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.sampler = self.make(seed=self.seed + trial.number)
        self.sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, *outcome: Any) -> None:
        self.sampler.after_trial(study, trial, *outcome)


def open_storage(url: str) -> RDBStorage:
    """The database of a study.

    Args:
        url: SQLAlchemy's, such as `sqlite:///logs/optuna.db` or `postgresql+psycopg://name:$PASSWORD@host/database`.
            Each run's folder keeps it, so a password in it has to be the name of an environment variable.

    Raises:
        UserError: for a database that cannot be opened, or a password; a URL that may hold one is not shown.
    """
    parts = None
    with suppress(ArgumentError):
        parts = make_url(url)
    problem: str | None
    if parts is None:  # may have a password anywhere
        problem = " is no URL such as sqlite:///logs/optuna.db"
    elif (parts.password and not parts.password.startswith("$")) or "password" in parts.query:
        problem = (
            ": a password would be kept in each run's folder. Put it into an environment variable:"
            " 'hydra.sweeper.storage=postgresql+psycopg://name:$PASSWORD@host/...'"
        )
    elif _is_sqlite(parts) and parts.database in (None, "", ":memory:"):
        problem = f"={url}: the trials cannot see a study in memory. Name a file"
    else:
        try:
            return _connect(parts)
        except ImportError as error:
            way_out = "install the driver. PostgreSQL: uv sync --extra postgresql, and a URL with postgresql+psycopg://"
            problem = f"={url}: {error.__cause__}: {way_out}"
        except (SQLAlchemyError, OSError, RuntimeError) as error:
            [reason, *_] = str(getattr(error, "orig", error)).splitlines()
            problem = f"={url}: cannot be opened ({reason})"
    raise UserError(f"hydra.sweeper.storage{problem}")


def _is_sqlite(parts: URL) -> bool:
    return parts.drivername.startswith("sqlite")


def _connect(parts: URL) -> RDBStorage:
    if parts.password:
        parts = parts.set(password=os.path.expandvars(parts.password))
    full = parts.render_as_string(hide_password=False)
    if _is_sqlite(parts) and parts.database:
        Path(parts.database).parent.mkdir(parents=True, exist_ok=True)
    with suppress(SQLAlchemyError):
        return RDBStorage(full)
    time.sleep(1)  # another process may have been making the same tables
    return RDBStorage(full)


def open_study(
    storage: str, name: str, direction: str, space: Mapping[str, BaseDistribution], sampler: BaseSampler
) -> optuna.Study:
    """The study of that name, made if there is none.

    Raises:
        UserError: for a database that cannot be opened, or a study of another direction or space.
    """
    study = optuna.create_study(
        storage=open_storage(storage),
        study_name=name,
        direction=StudyDirection[direction.upper()],
        sampler=sampler,
        load_if_exists=True,
    )
    other = None
    if study.direction.name.lower() != direction:
        other = f"to {study.direction.name.lower()}"
    for trial in study.get_trials(deepcopy=False):
        for key in space.keys() & trial.distributions.keys():
            before, now = trial.distributions[key], space[key]
            try:
                check_distribution_compatibility(before, now)
            except ValueError:
                other = f"with {key} from {before}, not {now}"
    if other:
        raise UserError(f"the study {name} is there already, {other}. Give another hydra.sweeper.study_name")
    return study


def note_overrides(study: optuna.Study, fixed: list[str]) -> None:
    """Keeps the first search's overrides, and warns if they differ now: the trials would not compare."""
    before = study.user_attrs.get("overrides")
    if before is None:
        study.set_user_attr("overrides", fixed)
    elif before != fixed:
        log.warning(
            "study %s began with other overrides, its trials may not compare: %s", study.study_name, " ".join(before)
        )


def draw(study: optuna.Study, fixed: list[str], space: Mapping[str, BaseDistribution]) -> optuna.Trial:
    """A new trial, which keeps its overrides."""
    trial = study.ask(dict(space))
    trial.set_user_attr("overrides", [*fixed, *as_overrides(trial.params)])
    return trial


def tell(study: optuna.Study, trial: optuna.Trial, value: float | None) -> FrozenTrial:
    """Stores a trial's result; None if it failed. A pruned trial has stored its own."""
    if value is None or not math.isfinite(value):
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
    else:
        study.tell(trial, value)
    return study.get_trials(deepcopy=False)[trial.number]


def finished(study: optuna.Study) -> int:
    """How many trials have a result; those that failed or were killed have none."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def best(study: optuna.Study) -> FrozenTrial | None:
    """The best trial that ran to its end, if there is one."""
    return study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None
