"""What was begun: where a sweep is, what of it is done already, its table at the end; how a run goes on."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digits.errors import UserError
from digits.runs.remembered import experiment_words, plain_dict, read_config, read_record, sweep_words

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
# What may differ where a run goes on: how long it takes, and where things are.
GOES_ON_WITH = (
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.enable_progress_bar",
    "checkpoint_every_seconds",
    "data.root",
    "log_dir",
)
log = logging.getLogger(__name__)


class SweepFolder(Callback):
    """Hydra's callback that notes where a sweep is, for its summary: Hydra skips on_multirun_end if a job failed."""

    current: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.job.config_name == "train":  # evaluations are not compared
            SweepFolder.current = Path(config.hydra.sweep.dir)


def summarise() -> None:
    """Ends a sweep, if there was one, with its table."""
    folder = SweepFolder.current
    if folder is not None and any(folder.glob("*/metrics.json")):
        from digits.runs.summary import write_summary

        try:
            print(f"\n{write_summary(folder).text}")
        except OSError as error:  # such as a full disk: not to hide how the jobs ended
            print(f"error: {folder}: no summary ({error})", file=sys.stderr)


def resumed_words(words: list[str], folder: str) -> list[str]:
    """The command line of the sweep that a folder is of, to go on in the same folder.

    Raises:
        UserError: if the folder is no sweep's, or there are words that would make it another sweep.
    """
    if folder == "last":
        sweeps = sorted(Path(log_dir(words), "train", "multiruns").glob("*/multirun.yaml"), key=_age)
        folder = str(sweeps[0].parent) if sweeps else folder
    path = Path(folder).expanduser() / "multirun.yaml"
    if not path.is_file():
        raise UserError(
            f"resume_sweep={folder}: no sweep's folder, it has no multirun.yaml. Give logs/train/multiruns/..."
        )
    try:
        sweep = read_config(path).hydra
        sweeper, overrides = sweep.sweeper._target_, plain_dict(sweep.overrides)
        task, sweeping = experiment_words(overrides["task"]), sweep_words(overrides["hydra"])
    except (ValueError, AttributeError, KeyError, TypeError, OmegaConfBaseException) as error:
        raise UserError(f"resume_sweep={folder}: its multirun.yaml is damaged, or not a sweep's") from error
    if sweeper != BASIC_SWEEPER:
        raise UserError(f"resume_sweep={folder}: a search goes on where it stopped when its command is run again")
    more = [word for word in words if word not in ("-m", "--multirun", *task) and not word.startswith("resume_sweep=")]
    if others := [word for word in more if not word.startswith("hydra")]:
        raise UserError(f"{others[0]}: resume_sweep takes the sweep's own overrides; give hydra/launcher=... at most")
    where = quoted(str(path.parent.absolute()))
    return ["--multirun", *sweeping, *task, *more, f"resume_sweep={where}", f"hydra.sweep.dir={where}"]


def go_on_words(folder: Path) -> str:
    """The command that goes on with a run, or with the sweep that it is a job of."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return shlex.join(["python", "train.py", f"resume_sweep={Path(HydraConfig.get().sweep.dir).absolute()}"])
    return shlex.join(["python", "train.py", f"resume={folder}"])


def resumed_run_words(words: list[str], asked: str) -> list[str]:
    """The command line of a single run, to go on in its folder.

    Args:
        words: the command line now.
        asked: the run's folder, or `last`: the newest one under log_dir.

    Raises:
        UserError: if there is no such run, or there are words that would make it another experiment.
    """
    more = [word for word in words if not word.lstrip("+").startswith("resume=")]
    folder = _last_run(more) if asked == "last" else Path(asked).expanduser().absolute()
    try:
        own = experiment_words(read_record(folder)["overrides"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"resume={asked}: no run's folder, or a damaged one. Give logs/train/runs/..., or last"
        ) from error
    for word in more:
        key = word.partition("=")[0]
        if key not in GOES_ON_WITH:
            raise UserError(
                f"{word}: a run goes on as it began; resume takes {', '.join(GOES_ON_WITH)}. Else start a new run"
            )
    if search := [word for word in own if word.startswith(("callbacks.pruning.", "+callbacks.pruning."))]:
        raise UserError(
            f"resume={asked}: a search's trial ({search[0]}); a search goes on when its command is run again"
        )
    own = [word for word in own if word.partition("=")[0] not in {other.partition("=")[0] for other in more}]
    # .hydra stays as it was: what comes here may be refused yet.
    where = [f"hydra.run.dir={quoted(str(folder))}", "hydra.output_subdir=null"]
    return [*own, *more, f"resume={quoted(str(folder))}", *where]


def requeued_run(words: Sequence[str]) -> Path | None:
    """The folder of the run that this command began before SLURM requeued its job; None if there is none."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    with suppress(ValueError):  # from words that Hydra is yet to complain of
        asked = experiment_words(list(words))
        given = [Path(value).absolute() for value in _values(words, "hydra.run.dir")]
        for folder in [*given[-1:], *_runs(words)]:  # of all, because a job's script may hold several commands
            record = read_record(folder)
            with suppress(KeyError, ValueError):
                if record.get("slurm_job_id") == job and experiment_words(record["overrides"]) == asked:
                    return folder
    return None


def resumed_config(cfg: DictConfig) -> tuple[DictConfig, int]:
    """The config of a run that goes on: its own, whatever the files in configs/ say by now, but for what may differ.

    Returns:
        The config, and how many epochs were planned before.

    Raises:
        UserError: if it is not there, or its schedule has an end that would move.
    """
    path = Path(cfg.resume, "config.yaml")
    try:
        saved = read_config(path)
        planned, schedule = saved.trainer.max_epochs, dict(saved.scheduler)
    except (OSError, ValueError, AttributeError, TypeError, OmegaConfBaseException) as error:
        raise UserError(f"resume={cfg.resume}: its config.yaml is missing or damaged ({error})") from error
    given = {word.partition("=")[0] for word in job_overrides()}
    if "trainer.max_epochs" in given and cfg.trainer.max_epochs != planned and "auto" in schedule.values():
        raise UserError(
            f"trainer.max_epochs={cfg.trainer.max_epochs}: the learning rate was to reach its end in {planned} epochs"
            f" ({schedule.get('_target_')}), and cannot be drawn out now. Start a new run"
        )
    for key in ("resume", *given.intersection(GOES_ON_WITH)):
        OmegaConf.update(saved, key, OmegaConf.select(cfg, key), force_add=True)
    return saved, planned


def _last_run(words: Sequence[str]) -> Path:
    for folder in _runs(words):
        if read_record(folder).get("status") != "failed" or (folder / "checkpoints" / "last.ckpt").exists():
            return folder  # others failed as they would again
    raise UserError(f"resume=last: there is no run in {_runs_folder(words)} that could go on")


def _runs(words: Sequence[str]) -> list[Path]:
    """The runs under the command's log_dir, the newest first."""
    return [path.parent.absolute() for path in sorted(_runs_folder(words).glob("*/config.yaml"), key=_age)]


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _runs_folder(words: Sequence[str]) -> Path:
    return Path(log_dir(words), "train", "runs")


def log_dir(words: Sequence[str]) -> str:
    """Where a command line has its results written."""
    return ["logs", *_values(words, "log_dir")][-1]


def _values(words: Sequence[str], key: str) -> list[str]:
    """What a command line gives for a key."""
    parsed = OverridesParser.create().parse_overrides([word for word in words if word.startswith(f"{key}=")])
    return [str(override.value()) for override in parsed]


def job_overrides() -> list[str]:
    """The overrides of the run that goes on, as they were given: interpolations stay what they are."""
    return plain_dict(HydraConfig.get().overrides)["task"]


def begun_before(cfg: DictConfig) -> dict[str, Any]:
    """What is on record of this job, if its sweep is resumed; empty if nothing is, or it was of another experiment."""
    if cfg.get("resume_sweep") is None:
        return {}
    record = read_record(Path(HydraConfig.get().runtime.output_dir))
    asked, ran = (
        [word for word in words if word.partition("=")[0] not in ("resume", "resume_sweep", *GOES_ON_WITH)]
        for words in (job_overrides(), record.get("overrides", []))
    )
    return record if asked == ran else {}


def go_on(cfg: DictConfig, before: dict[str, Any]) -> None:
    """Has a job of a resumed sweep go on where it was cut off, if it was: one that failed begins anew.

    So does one in several processes: those that Lightning starts would not know.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    cut_off = before.get("status") in ("running", "interrupted") and (folder / "checkpoints" / "last.ckpt").exists()
    if cut_off and cfg.trainer.devices == 1:
        cfg.resume = str(folder)


def quoted(value: str) -> str:
    """As Hydra's overrides want it, whatever is in it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
