"""Sweeps: where one is, the plan of its jobs, how it resumes, its table at the end."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

from digits.atomic import atomic_write
from digits.errors import UserError
from digits.overrides import adopt_targets, log_dir, quoted
from digits.runs.run import CONFIG, PLAN, natural

BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"


class SweepFolder(Callback):
    """Hydra's callback at the start of a sweep: notes its folder for the summary, and keeps the plan of its jobs.

    The plan is the resolved config of each job, `jobs/<job>.yaml`: from it the sweep resumes.
    """

    current: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.job.config_name != "train":  # evaluations are not compared
            return
        SweepFolder.current = Path(config.hydra.sweep.dir)
        if config.hydra.sweeper._target_ == BASIC_SWEEPER and config.resume is None:
            # What does not compose is refused by the sweeper itself, a moment later.
            with suppress(HydraException, InterpolationResolutionError):
                _plan(config, SweepFolder.current)


def _plan(config: DictConfig, folder: Path) -> None:
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    [jobs] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    configs = {}
    for number, job in enumerate(jobs):
        own = [f"hydra.job.num={number}", *config.hydra.overrides.hydra]
        cfg = compose("train", overrides=[*own, *job], return_hydra_config=True)
        name = str(cfg.hydra.sweep.subdir)
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


def plan_of(folder: Path) -> list[Path]:
    """The configs of a sweep's jobs, by the names of their folders: job 10 after job 9."""
    return sorted(folder.glob(f"{PLAN}/*.yaml"), key=lambda path: natural(path.stem))


def resume_sweep_arguments(arguments: Sequence[str], asked: str) -> list[str]:
    """The command line that resumes the jobs of a sweep, each by its folder.

    Args:
        arguments: the command line.
        asked: the sweep's folder, or `last`: the newest one under log_dir.

    Raises:
        UserError: if the folder is no sweep's, or an override would make it another sweep.
    """
    folder = Path(asked).expanduser()
    if asked == "last":
        sweeps = Path(log_dir(arguments), "train", "multiruns").glob("*")
        folder = max(sweeps, key=lambda path: path.stat().st_mtime, default=folder)
    folder = folder.absolute()
    plan = plan_of(folder)
    if not plan:
        raise UserError(
            f"resume_sweep={asked}: not a sweep's folder, it has no {PLAN}/. Give logs/train/multiruns/..., or last."
            " A search resumes when its command is run again"
        )
    found_by = ("-m", "--multirun", "resume_sweep", "log_dir")
    more = [argument for argument in arguments if argument.partition("=")[0] not in found_by]
    if others := [argument for argument in more if not argument.startswith(("hydra", "trust="))]:
        raise UserError(f"{others[0]}: a resumed sweep keeps its settings; give hydra/launcher=... at most")
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
