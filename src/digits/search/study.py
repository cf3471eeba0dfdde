"""A search for hyperparameters: the space that it draws from, and the study in which Optuna keeps its trials."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    ParsedElementType,
    RangeSweep,
    Transformer,
)
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from digits.errors import UserError
from digits.validation import Settings, user_errors

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)  # the sweeper has a line a trial itself


class SearchSettings(Settings):
    study_name: Annotated[str, Field(min_length=1)]
    n_trials: Annotated[int, Field(ge=1)]
    n_jobs: Annotated[int, Field(ge=1)]
    direction: Literal["maximize", "minimize"]
    seed: Annotated[int, Field(ge=0)]


def check_settings(study_name: str, n_trials: int, n_jobs: int, direction: str, seed: int) -> None:
    """Refuses what a search cannot work with.

    Raises:
        UserError: naming the key.
    """
    with user_errors("hydra.sweeper"):
        SearchSettings.model_validate(locals())


def distribution(override: Override) -> Distribution:
    """What Optuna draws from for a sweep in Hydra's syntax, such as `optimizer.lr=tag(log, interval(1e-4, 0.1))`.

    `a,b` and `choice(a, b)` are categories, `range(start, stop, step)` is numbers up to stop without it, as in Python,
    `interval(low, high)` is real numbers and `int(interval(low, high))` whole ones, both with their ends.

    Raises:
        UserError: for a space without a value.
    """
    sweep, line = override.value(), _line(override)
    is_log = "log" in getattr(sweep, "tags", ())
    match sweep:
        case RangeSweep():
            return _range(sweep, is_log, line)
        case IntervalSweep(start=int() | float() as low, end=int() | float() as high):
            _check(low < high, line, f"{low} is not below {high}")
            _check(low > 0 or not is_log, line, f"a logarithmic interval has to start above 0, not at {low}")
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log=is_log)
            return FloatDistribution(low, high, log=is_log)
    choices = sweep.list if isinstance(sweep, ChoiceSweep) else list(override.sweep_iterator())  # else a glob
    _check(choices, line, "there is nothing to choose from")
    return CategoricalDistribution([_category(choice) for choice in choices])


def _line(override: Override) -> str:
    """As it was written; the type has None for one that nobody wrote."""
    return str(override.input_line)


def _range(sweep: RangeSweep, is_log: bool, line: str) -> Distribution:
    # By their text: as decimal fractions, 0.1 and its multiples are exact.
    start, stop, step = (Decimal(str(number)) for number in (sweep.start, sweep.stop, sweep.step))
    _check(step, line, "its step is 0")
    count = math.ceil((stop - start) / step)
    _check(count > 0, line, "the range is empty")
    low, high = sorted((start, start + (count - 1) * step))
    _check(low > 0 or not is_log, line, f"a logarithmic range has to start above 0, not at {low}")
    _check(abs(step) == 1 or not is_log, line, "a logarithmic range has no step: use an interval")
    if all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step)):
        return IntDistribution(int(low), int(high), log=is_log, step=int(abs(step)))
    return FloatDistribution(float(low), float(high), log=is_log, step=None if is_log else float(abs(step)))


def _check(fine: Any, line: str, problem: str) -> None:
    if not fine:
        raise UserError(f"{line}: {problem}")


def _category(choice: ParsedElementType) -> bool | int | float | str | None:
    """Numbers, true, false and null as they are; anything else as it is written in an override."""
    return choice if choice is None or isinstance(choice, bool | int | float) else Transformer.str(choice)


def split(overrides: Iterable[Override]) -> tuple[list[str], dict[str, Distribution]]:
    """The overrides that are the same in each trial, and the space of the others; a key's last override counts.

    Raises:
        UserError: for an empty space.
    """
    by_key = {override.get_key_element(): override for override in overrides}
    space = {key: distribution(override) for key, override in by_key.items() if override.is_sweep_override()}
    if not space:
        raise UserError("nothing to search: give hydra.sweeper.params, or a sweep such as model.dropout=0.1,0.3")
    return [_line(override) for key, override in by_key.items() if key not in space], space


def as_overrides(params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides."""
    return [f"{key}={value if isinstance(value, str) else Transformer.str(value)}" for key, value in params.items()]


def samples(space: Mapping[str, Distribution]) -> Iterable[list[str]]:
    """Overrides that together name each choice of the space once."""
    values = {
        key: part.choices if isinstance(part, CategoricalDistribution) else (part.low, part.high)
        for key, part in space.items()
    }
    for i in range(max(map(len, values.values()))):
        yield as_overrides({key: each[i % len(each)] for key, each in values.items()})


class SeededByTrial(BaseSampler):
    """Draws each trial with a sampler of its own, seeded with `seed` plus the trial's number.

    So a search that was stopped resumes with the values that it would have had, and machines that share a study do not
    start with the same ones.

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
        UserError: for a database that cannot be opened, or a password.
    """
    problem = None
    try:
        parts = make_url(url)
    except ArgumentError:  # may have a password anywhere: not to be shown
        raise UserError("hydra.sweeper.storage is no URL such as sqlite:///logs/optuna.db") from None
    try:
        if (parts.password and not parts.password.startswith("$")) or "password" in parts.query:
            problem = (
                "hydra.sweeper.storage: a password would be kept in each run's folder. Put it into an environment"
                " variable: 'hydra.sweeper.storage=postgresql+psycopg://name:$PASSWORD@host/...'"
            )
        elif parts.drivername.startswith("sqlite") and parts.database in (None, "", ":memory:"):
            problem = f"hydra.sweeper.storage={url}: the trials cannot see a study in memory. Name a file"
        else:
            return _connected(parts)
    except ImportError as error:
        way_out = "install the driver. PostgreSQL: uv sync --extra postgresql, and a URL with postgresql+psycopg://"
        problem = f"hydra.sweeper.storage={url}: {error.__cause__}: {way_out}"
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        [reason, *_] = str(getattr(error, "orig", error)).splitlines()
        problem = f"hydra.sweeper.storage={url}: cannot be opened ({reason})"
    raise UserError(problem)


def _connected(parts: URL) -> RDBStorage:
    if parts.password:
        parts = parts.set(password=os.path.expandvars(parts.password))
    if parts.drivername.startswith("sqlite") and parts.database:
        Path(parts.database).parent.mkdir(parents=True, exist_ok=True)
    full = parts.render_as_string(hide_password=False)
    try:
        return RDBStorage(full)
    except SQLAlchemyError:
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
    problem = None
    if study.direction.name.lower() != direction:
        problem = f"to {study.direction.name.lower()}"
    for trial in study.get_trials(deepcopy=False):
        for key in [key for key in space if key in trial.distributions]:
            try:
                check_distribution_compatibility(trial.distributions[key], space[key])
            except ValueError:
                problem = f"with {key} from {trial.distributions[key]}, not {space[key]}"
    if problem:
        raise UserError(f"the study {name} is there already, {problem}. Give another hydra.sweeper.study_name")
    return study


def note_overrides(study: optuna.Study, fixed: list[str]) -> None:
    """Keeps what a study began with, and warns of another start: a best of unlike trials would mean nothing."""
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
    """Tells how a trial ended, a failed one by None; one that was pruned has told it itself."""
    if value is None or not math.isfinite(value):
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
    else:
        study.tell(trial, value)
    return study.get_trials(deepcopy=False)[trial.number]


def finished(study: optuna.Study) -> int:
    """How many trials have a result: those that failed or were killed have none."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def best(study: optuna.Study) -> FrozenTrial | None:
    """The best trial that ran to its end, if there is one."""
    return study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None
