"""What was begun: where a sweep is, what of it is done already, its table at the end; how a run goes on."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException
from yaml import YAMLError

from digits.errors import UserError
from digits.record import read_record

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
        from digits.summary import write_summary

        try:
            print(f"\n{write_summary(folder).text}")
        except OSError as error:  # such as a full disk: not to hide how the jobs ended
            print(f"error: {folder}: no summary ({error})", file=sys.stderr)


def resumed_words(words: list[str], folder: str) -> list[str]:
    """The command line of the sweep that a folder is of, to go on in the same folder.

    Raises:
        UserError: if the folder is no sweep's, or there are words that would make it another sweep.
    """
    path = Path(folder).expanduser() / "multirun.yaml"
    if not path.is_file():
        raise UserError(
            f"resume_sweep={folder}: no sweep's folder, it has no multirun.yaml. Give logs/train/multiruns/..."
        )
    try:
        sweep = OmegaConf.load(path).hydra
        sweeper, overrides = sweep.sweeper._target_, plain_dict(sweep.overrides)
        task, sweeping = experiment_words(overrides["task"]), sweep_words(overrides["hydra"])
    except (
        *(YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError),
        *(OmegaConfBaseException, OverrideParseException),
    ) as error:
        raise UserError(f"resume_sweep={folder}: its multirun.yaml is damaged, or not a sweep's") from error
    if sweeper != BASIC_SWEEPER:
        raise UserError(f"resume_sweep={folder}: a search goes on where it stopped when its command is run again")
    more = [word for word in words if word not in ("-m", "--multirun", *task) and not word.startswith("resume_sweep=")]
    if others := [word for word in more if not word.startswith("hydra")]:
        raise UserError(f"{others[0]}: resume_sweep takes the sweep's own overrides; give hydra/launcher=... at most")
    where = quoted(str(path.parent.absolute()))
    return ["--multirun", *sweeping, *task, *more, f"resume_sweep={where}", f"hydra.sweep.dir={where}"]


def experiment_words(words: Sequence[str]) -> list[str]:
    """Of the overrides that a run's or a sweep's folder remembers, those about the experiment.

    The folder may come from anywhere, and Hydra would call what it finds under `hydra`, or in another folder of
    configs (`--config-dir`), before anybody looks.

    Raises:
        OverrideParseException: a HydraException, for what is no override at all.
    """
    overrides = OverridesParser.create().parse_overrides(list(words))
    return [
        word
        for word, override in zip(words, overrides, strict=True)
        if not override.key_or_group.startswith("hydra")
        and not (override.package or "").startswith("hydra")
        and override.key_or_group not in ("resume", "resume_sweep")
    ]


def sweep_words(words: Sequence[str]) -> list[str]:
    """Of the overrides of Hydra that a sweep's folder remembers, those that say what its jobs are and where.

    Other settings of a launcher are to be given again: some of them are shell commands.

    Raises:
        OverrideParseException: a HydraException, for what is no override at all.
    """
    kept = []
    for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        match override.key_or_group:
            case "hydra/launcher" if str(override.value()).isidentifier():  # none of another folder
                kept.append(word)
            case "hydra.launcher.n_jobs" | "hydra.sweep.subdir":
                kept.append(word)
            case key if key.startswith("hydra.sweeper.params."):
                kept.append(word)
    return kept


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
    except (KeyError, TypeError, AttributeError, OverrideParseException) as error:
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
    # .hydra stays as it was: what comes here may be refused yet.
    where = [f"hydra.run.dir={quoted(str(folder))}", "hydra.output_subdir=null"]
    return [*own, *more, f"resume={quoted(str(folder))}", *where]


def requeued_run(words: Sequence[str]) -> Path | None:
    """The folder of the run that this command began before SLURM requeued its job; None if there is none."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    for path in _runs(words):  # of all: a job's script may hold several commands
        record = read_record(path.parent)
        with suppress(KeyError, TypeError, AttributeError, OverrideParseException):
            if record.get("slurm_job_id") == job and experiment_words(record["overrides"]) == experiment_words(words):
                return path.parent.absolute()
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
        saved = OmegaConf.create(plain_dict(OmegaConf.load(path)))
        planned, schedule = saved.trainer.max_epochs, dict(saved.scheduler)
    except (OSError, YAMLError, UnicodeDecodeError, AttributeError, TypeError, OmegaConfBaseException) as error:
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


def _last_run(words: list[str]) -> Path:
    for path in _runs(words):
        return path.parent.absolute()
    raise UserError(f"resume=last: there is no run in {_runs_folder(words)}")


def _runs(words: Sequence[str]) -> list[Path]:
    """The config.yaml of each run under the command's log_dir, the newest first."""
    found = _runs_folder(words).glob("*/config.yaml")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _runs_folder(words: Sequence[str]) -> Path:
    logs = [word.partition("=")[2] for word in words if word.startswith("log_dir=")]
    return Path(logs[-1] if logs else "logs", "train", "runs")


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


def plain_dict(cfg: Any, resolve: bool = False) -> dict[str, Any]:
    """A config as plain types; interpolations stay what they are, unless they are to be resolved.

    Raises:
        ConfigTypeError: an OmegaConfBaseException, for one that is a list.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=resolve)
    if not isinstance(plain, dict):
        raise ConfigTypeError(f"keys with values are expected, not a {type(plain).__name__}")
    return plain


def quoted(value: str) -> str:
    """As Hydra's overrides want it, whatever is in it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
