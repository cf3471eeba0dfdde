"""A Hydra sweeper that searches with Optuna: hydra/sweeper=optuna.

Hydra imports this module at every start, so it imports nothing slow: Optuna is imported only for a search.
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
from digits.metrics import OBJECTIVE

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Launches trial after trial, with values that Optuna draws, until the study has as many as it should.

    Its only state is the study: a stopped search resumes in it, and several machines may share it.

    Args:
        params: the space, sweeps in Hydra's syntax by key; the command line's overrides come on top.
        sampler: makes Optuna's sampler from a `seed`.
        settings: as `digits.search.study.SearchSettings` describes them.
    """

    config: DictConfig

    def __init__(self, params: Mapping[str, Any], sampler: "Callable[..., BaseSampler]", **settings: Any) -> None:
        from digits.search.study import SearchSettings  # here, because Optuna takes a while
        from digits.validation import user_errors

        with user_errors("hydra.sweeper"):
            self.settings = SearchSettings(**settings)
        self.params = params
        self.sampler = sampler

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.config_loader = hydra_context.config_loader
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Raises what the first failed trial raised, once the search is over."""
        from digits.search import space as spaces
        from digits.search import study as studies

        params = [f"{key}={value}" for key, value in self.params.items() if value is not None]
        overrides = OverridesParser.create(config_loader=self.config_loader).parse_overrides(params + arguments)
        fixed, space = spaces.split(overrides)
        for sample in spaces.samples(space):  # raises what every trial would fail with
            self.config_loader.load_sweep_config(self.config, [*fixed, *sample])
        settings = self.settings
        sampler = studies.SeededByTrial(self.sampler, settings.seed)
        study = studies.open_study(settings.storage, settings.study_name, settings.direction, space, sampler)
        studies.note_overrides(study, fixed)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "multirun.yaml") as part:
            OmegaConf.save(self.config, part)

        failed: list[JobReturn] = []
        launched, missing = 0, settings.n_trials - studies.finished(study)
        if missing <= 0:
            log.info("study %s: all %d trials are finished", settings.study_name, settings.n_trials)
        # Counted each time, as other machines finish trials too. Not more than were missing: all of them might fail.
        while (size := min(settings.n_jobs, missing - launched, settings.n_trials - studies.finished(study))) > 0:
            trials = [studies.draw(study, fixed, space) for _ in range(size)]
            launched += size
            failed += self._launch(study, trials)

        if best := studies.best(study):
            log.info("best: trial %d, %s %.4f", best.number, OBJECTIVE, best.value)
            if "overrides" in best.user_attrs:  # not in a trial that somebody added by hand
                command = ["python", Path(sys.argv[0]).name, "hydra.mode=RUN", *best.user_attrs["overrides"]]
                log.info("train it again: %s", shlex.join(command))
        if failed:
            _ = failed[0].return_value  # raises what the job raised
            raise UserError(f"a trial returned no {OBJECTIVE}: was there a validation?")

    def _launch(self, study: "Study", trials: "list[Trial]") -> list[JobReturn]:
        """Runs trials, stores how they end, and returns the jobs that failed."""
        from digits.search import study as studies

        try:
            jobs = self.launcher.launch([self._job(trial) for trial in trials], initial_job_idx=trials[0].number)
        except BaseException:  # Ctrl-C too: a trial left as running would be taken for another machine's
            for trial in trials:
                studies.tell(study, trial, None)
            raise
        failed = []
        for trial, job in zip(trials, jobs, strict=True):
            outcome = studies.tell(study, trial, job.return_value if job.status == JobStatus.COMPLETED else None)
            if outcome.state not in studies.FINISHED:
                failed.append(job)
        return failed

    def _job(self, trial: "Trial") -> list[str]:
        """The overrides of a trial's run."""
        number = [f"hydra.sweep.subdir={trial.number}"]
        if OmegaConf.select(self.config, "callbacks.pruning"):
            number.append(f"callbacks.pruning.trial={trial.number}")
        return [*trial.user_attrs["overrides"], *number]
