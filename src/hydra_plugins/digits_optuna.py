"""Hydra's way to a search by Optuna: hydra/sweeper=optuna.

Hydra imports this module at every start, so it imports nothing slow: Optuna comes only with a search.
"""

import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from digits.atomic import atomic_write
from digits.errors import UserError

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Launches trials with values that Optuna draws, until a study has as many as it should.

    Everything is in the study: a search that was stopped resumes from it, and several machines may share it.

    Args:
        study_name: names the study in its database.
        storage: URL of the database, see `digits.search.study.open_storage`.
        n_trials: finished trials in the study, from all searches on it together.
        n_jobs: trials launched at once; how many of them run at once is the launcher's part.
        direction: `maximize` or `minimize` what the task returns.
        seed: of what is drawn; the runs' own is `seed`.
        sampler: makes Optuna's sampler from a `seed`.
        params: the space, sweeps in Hydra's syntax by key; the command line's overrides come on top.
    """

    config: DictConfig

    def __init__(
        self,
        study_name: str,
        storage: str,
        n_trials: int,
        n_jobs: int,
        direction: str,
        seed: int,
        sampler: "Callable[..., BaseSampler]",
        params: Mapping[str, Any],
    ) -> None:
        self.study_name = str(study_name)
        self.storage = storage
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.direction = direction
        self.seed = seed
        self.sampler = sampler
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.config_loader = hydra_context.config_loader
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Raises what the first failed trial raised, once the search is over."""
        from digits.search import study as search

        search.check_settings(self.study_name, self.n_trials, self.n_jobs, self.direction, self.seed)
        params = [f"{key}={value}" for key, value in self.params.items() if value is not None]
        overrides = OverridesParser.create(config_loader=self.config_loader).parse_overrides(params + arguments)
        fixed, space = search.split(overrides)
        for sample in search.samples(space):  # raises what every trial would fail with
            self.config_loader.load_sweep_config(self.config, [*fixed, *sample])
        sampler = search.SeededByTrial(self.sampler, self.seed)
        study = search.open_study(self.storage, self.study_name, self.direction, space, sampler)
        search.note_overrides(study, fixed)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "multirun.yaml") as part:
            OmegaConf.save(self.config, part)

        failed: list[JobReturn] = []
        launched, missing = 0, self.n_trials - search.finished(study)
        if missing <= 0:
            log.info("study %s: all %d trials are finished", self.study_name, self.n_trials)
        # Counted each time, as other machines finish trials too; no more than were missing, as all might fail.
        while (size := min(self.n_jobs, missing - launched, self.n_trials - search.finished(study))) > 0:
            trials = [search.draw(study, fixed, space) for _ in range(size)]
            launched += size
            try:
                jobs = self.launcher.launch([self._job(trial) for trial in trials], initial_job_idx=trials[0].number)
            except BaseException:  # Ctrl-C too: a trial left as running would be taken for another machine's
                for trial in trials:
                    search.tell(study, trial, None)
                raise
            for trial, job in zip(trials, jobs, strict=True):
                value = job.return_value if job.status == JobStatus.COMPLETED else None
                outcome = search.tell(study, trial, value)
                result = "" if outcome.value is None else f", val/acc {outcome.value:.4f}"
                log.info("trial %d: %s%s", trial.number, outcome.state.name.lower(), result)
                if outcome.state not in search.FINISHED:
                    failed.append(job)

        if best := search.best(study):
            log.info("best: trial %d, val/acc %.4f", best.number, best.value)
            if "overrides" in best.user_attrs:  # not in a trial that somebody added by hand
                command = ["python", Path(sys.argv[0]).name, "hydra.mode=RUN", *best.user_attrs["overrides"]]
                log.info("once more: %s", shlex.join(command))
        if failed:
            _ = failed[0].return_value  # raises what the job raised
            raise UserError("a trial returned no val/acc: was there a validation?")

    def _job(self, trial: "Trial") -> list[str]:
        """The overrides of a trial's run."""
        number = [f"hydra.sweep.subdir={trial.number}"]
        if OmegaConf.select(self.config, "callbacks.pruning"):
            number.append(f"callbacks.pruning.trial={trial.number}")
        return [*trial.user_attrs["overrides"], *number]
