"""Everything that depends on a logger's class: how it is opened and resumed, takes pictures and hyperparameters."""

import csv
import secrets
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.image import imread
from omegaconf import DictConfig, OmegaConf

from digits.runs.run import Run
from digits.targets import target_of


def open_loggers(configs: DictConfig, run: Run, step: int | None) -> list[Logger]:
    """Makes the loggers that the config names.

    Args:
        configs: of each logger by a name, or null in its place. A `save_dir` is relative to the run's folder.
        run: the run; its record before knows what it logged to.
        step: where the run resumes, if it does: what was logged from there on is logged again.
    """
    loggers: list[Logger] = []
    for name, config in configs.items():
        if not config:
            continue
        kind = target_of(f"logger.{name!s}", config)
        arguments: dict[str, Any] = {}
        if config.get("save_dir") is not None:
            arguments["save_dir"] = str(run.folder / config.save_dir)
        if _is(kind, WandbLogger):
            # Drawn here: W&B's own would be known too late for a run that is interrupted.
            arguments["id"] = run.before.get("wandb_id") or config.get("id") or secrets.token_hex(8)
            arguments["name"] = config.get("name") or str(run.home)
        elif _is(kind, MLFlowLogger):
            arguments["run_name"] = config.get("run_name") or str(run.home)
            arguments["run_id"] = run.before.get("mlflow_run_id") if step is not None else None
        elif _is(kind, TensorBoardLogger) and step is not None:
            arguments["purge_step"] = step
        logger = instantiate(config, **arguments)
        if isinstance(logger, CSVLogger) and step is not None:
            _restore_rows(logger, step)
        loggers.append(logger)
    return loggers


def _is(kind: Any, logger: type[Logger]) -> bool:
    return isinstance(kind, type) and issubclass(kind, logger)


def _restore_rows(logger: CSVLogger, step: int) -> None:
    """Lightning's logger deletes what it finds: here it gets the rows of the steps before `step` back."""
    path = Path(logger.log_dir, "metrics.csv")
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if (row["step"] or "").isdecimal() and int(row["step"]) < step]
    with warnings.catch_warnings(action="ignore"):  # of what it deletes
        logger.experiment.metrics = rows
    logger.save()


def logger_facts(trainer: L.Trainer) -> dict[str, Any]:
    """What a run's record keeps for its loggers to resume."""
    facts: dict[str, Any] = {}
    for logger in trainer.loggers if trainer.is_global_zero else []:
        match logger:
            case MLFlowLogger():
                facts["mlflow_run_id"] = logger.run_id
            case WandbLogger():
                facts["wandb_id"] = logger.version
    return facts


def flush(loggers: Iterable[Logger]) -> None:
    """Writes what was logged so far into the files: a kill would take what waits in memory."""
    for logger in loggers:
        match logger:
            case TensorBoardLogger():
                logger.experiment.flush()
            case CSVLogger():
                logger.save()


def log_picture(trainer: L.Trainer, path: Path) -> None:
    """Gives a PNG to the loggers that take pictures."""
    for logger in trainer.loggers:
        match logger:
            case TensorBoardLogger():
                # The picture itself: TensorBoard's add_figure would draw it a second time, which takes as long again.
                pixels = imread(path)[..., :3]
                logger.experiment.add_image(path.stem, pixels, trainer.global_step, dataformats="HWC")
            case WandbLogger():
                logger.log_image(path.stem, [str(path)])
            case MLFlowLogger():
                logger.experiment.log_artifact(logger.run_id, str(path))


def log_hyperparameters(trainer: L.Trainer, run: Run) -> None:
    """Gives the loggers the settings, and the run's figures once they are known: those of the tested checkpoint.

    They are logged under `best/...`: under their own names they would put a point into the epochs' curves.
    """
    settings: Any = OmegaConf.to_container(run.config)
    shown = {name: settings[name] for name in ("model", "optimizer", "scheduler", "augmentation", "seed")}
    shown["data"] = {
        name: settings["data"][name] for name in ("_target_", "dataset", "batch_size") if name in settings["data"]
    }
    for part in shown.values():
        if isinstance(part, dict):
            part.pop("_partial_", None)  # Hydra's, not a setting
    best = {f"best/{name}": value for name, value in run.figures.items()}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(shown, best)  # both at once: what its HPARAMS tab shows
        else:
            logger.log_hyperparams(shown)
            logger.log_metrics(best)
            logger.save()
    flush(trainer.loggers)
