"""Sweeps: where one is, what of it is done already, and the table at its end."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from digits.errors import UserError

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
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
        sweeper, overrides = sweep.sweeper._target_, OmegaConf.to_container(sweep.overrides)
    except (YAMLError, UnicodeDecodeError, AttributeError, OmegaConfBaseException) as error:
        raise UserError(f"resume_sweep={folder}: its multirun.yaml is damaged, or not a sweep's") from error
    if sweeper != BASIC_SWEEPER:
        raise UserError(f"resume_sweep={folder}: a search goes on where it stopped when its command is run again")
    known = ("-m", "--multirun", *overrides["task"])
    more = [word for word in words if word not in known and not word.startswith("resume_sweep=")]
    if others := [word for word in more if not word.startswith("hydra")]:
        raise UserError(f"{others[0]}: resume_sweep takes the sweep's own overrides; give hydra/launcher=... at most")
    own = [word for word in overrides["hydra"] if not word.startswith(("hydra.sweep.dir=", "hydra.mode="))]
    own += [word for word in overrides["task"] if not word.startswith("resume_sweep=")]
    where = quoted(str(path.parent.absolute()))
    return ["--multirun", *own, *more, f"resume_sweep={where}", f"hydra.sweep.dir={where}"]


def job_overrides() -> list[str]:
    """The overrides of the run that goes on, as they were given: interpolations stay what they are."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task)


def done_before(cfg: DictConfig) -> dict[str, Any] | None:
    """The record of this job, if the sweep is resumed and had done it."""
    if "resume_sweep" not in cfg or cfg.resume_sweep is None:
        return None
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        record = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return None
    asked = [word for word in job_overrides() if not word.startswith("resume_sweep=")]
    ran = [word for word in record.get("overrides", []) if not word.startswith("resume_sweep=")]
    if record.get("status") != "completed" or asked != ran:
        return None
    log.info("done before: %s", folder)
    return record


def quoted(value: str) -> str:
    """As Hydra's overrides want it, whatever is in it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
