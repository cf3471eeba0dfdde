"""Sweeps: where one is, the plan of its jobs, what it says of each, how it resumes, its table at the end."""

import logging
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from digits.atomic import atomic_write
from digits.errors import UserError
from digits.metrics import OBJECTIVE
from digits.overrides import adopt_targets, job_overrides, log_dir, quoted, sweep_overrides
from digits.runs.run import CONFIG, NO_SETTING, PLAN, Run, natural

BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"

log = logging.getLogger(__name__)


class SweepFolder(Callback):
    """Hydra's callback at the start of a sweep: notes its folder for the summary, and keeps the plan of its jobs.

    The plan is the resolved config of each job, `jobs/<job>.yaml`: from it the sweep resumes.
    """

    current: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.job.config_name != "train":  # evaluations are not compared
            return
        # What does not compose is refused by the sweeper itself, a moment later.
        with suppress(HydraException, InterpolationResolutionError):
            SweepFolder.current = Path(config.hydra.sweep.dir)
            if config.hydra.sweeper._target_ == BASIC_SWEEPER and config.resume is None:
                _plan(config, SweepFolder.current)
            if jobs := plan_of(SweepFolder.current):
                log.info("%d jobs in %s", len(jobs), SweepFolder.current)


def _plan(config: DictConfig, folder: Path) -> None:
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    [jobs] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    configs = {}
    for number, job in enumerate(jobs):
        own = [f"hydra.job.num={number}", *config.hydra.overrides.hydra]
        cfg = compose("train", overrides=[*own, *job], return_hydra_config=True)
        name = str(cfg.hydra.sweep.subdir)
        with suppress(UserError):  # of a class that is not there, which the job itself says
            adopt_targets(cfg, job)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(folder / name)
            HydraConfig.instance().set_config(cfg)  # for interpolations of its values
            cfg.pop("hydra")
        configs[name] = OmegaConf.to_yaml(cfg, resolve=True)
    HydraConfig.instance().cfg = None
    (folder / PLAN).mkdir(parents=True, exist_ok=True)
    for name, text in configs.items():
        with atomic_write(folder / PLAN / f"{name}.yaml") as part:
            part.write_text(text, encoding="utf-8")


@contextmanager
def one_line_each(run: Run) -> Iterator[None]:
    """Shows of a job a line when it starts and a line when it ends, and its warnings; its log file keeps everything."""
    consoles = [
        handler
        for handler in logging.root.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    settings = _settings(run)
    for handler in consoles:
        handler.addFilter(_is_shown)
    log.info("job %s starts%s", run.folder.name, f": {settings}" if settings else "")
    try:
        yield
    finally:
        ended = Run(run.folder)
        facts = [f"{name} {ended.facts[name]:.4f}" for name in (OBJECTIVE, "test/acc") if ended.facts.get(name)]
        facts = [settings, *facts, f"{ended.facts.get('duration_seconds') or 0:.1f} s", str(run.folder)]
        log.info("job %s %s: %s", run.folder.name, ended.status, "  ".join(filter(None, facts)))
        for handler in consoles:
            handler.removeFilter(_is_shown)


def _is_shown(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name == __name__


def _settings(run: Run) -> str:
    """The overrides that set a job apart from the others of its sweep; all of them where that is not known."""
    swept: set[str] = set()
    with suppress(OSError, OmegaConfBaseException):
        hydra = OmegaConf.load(run.folder.parent / "multirun.yaml").hydra
        params = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
        swept = {override.get_key_element() for override in sweep_overrides([*params, *hydra.overrides.task])}
    given = run.before.get("overrides", job_overrides())
    given = [one for one in given if one.partition("=")[0].lstrip("+~") not in NO_SETTING - {"name"}]
    settings = " ".join([one for one in given if one.partition("=")[0] in swept] or given)
    return re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", settings)


def plan_of(folder: Path) -> list[Path]:
    """The configs of a sweep's jobs, by the names of their folders: job 10 after job 9."""
    return sorted(folder.glob(f"{PLAN}/*.yaml"), key=lambda path: natural(path.stem))


def resume_sweep_arguments(arguments: Sequence[str], asked: str) -> list[str]:
    """The command line that resumes a sweep, each job by its folder. `last` asks for the newest one under log_dir.

    Raises:
        UserError: if the folder is no sweep's, or an override would make it another sweep.
    """
    folder = Path(asked).expanduser()
    if asked == "last":
        sweeps = Path(log_dir(arguments), "train", "multiruns").glob("*")
        folder = max(sweeps, key=lambda path: path.stat().st_mtime, default=folder)
    folder = folder.absolute()
    found_by = ("-m", "--multirun", "resume_sweep", "log_dir")
    more = [argument for argument in arguments if argument.partition("=")[0] not in found_by]
    plan, problem = plan_of(folder), None
    if not plan:
        problem = (
            f"resume_sweep={asked}: not a sweep's folder, it has no {PLAN}/. Give logs/train/multiruns/..., or last."
            " A search resumes when its command is run again"
        )
    elif others := [argument for argument in more if not argument.startswith(("hydra", "trust="))]:
        problem = f"{others[0]}: a resumed sweep keeps its settings; give hydra/launcher=... at most"
    if problem:
        raise UserError(problem)
    jobs = [folder / path.stem for path in plan]
    for job, path in zip(jobs, plan, strict=True):
        if not (job / CONFIG).exists():  # it did not start, or its folder was deleted to run it again
            job.mkdir(exist_ok=True)
            shutil.copyfile(path, job / CONFIG)
    folders = ",".join(quoted(str(job)) for job in jobs)
    return ["--multirun", *more, f"resume={folders}", f"hydra.sweep.dir={quoted(str(folder))}"]


def summarise() -> None:
    """Ends a sweep, if there was one, with its table."""
    folder = SweepFolder.current
    if folder is not None and any(folder.glob("*/metrics.json")):
        from digits.runs.summary import write_summary

        try:
            print(f"\n{write_summary(folder).text}")
        except OSError as error:  # such as a full disk: not to hide how the jobs ended
            print(f"error: {folder}: no summary ({error})", file=sys.stderr)
