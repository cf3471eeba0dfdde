"""The loggers of a run: where it goes on, so do their curves."""

import csv
import secrets
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_class, instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig


def open_loggers(configs: DictConfig, step: int | None, before: Mapping[str, Any]) -> list[Logger]:
    """Makes the loggers that the config names.

    Args:
        configs: of each logger by a name, or null in its place.
        step: where the run goes on, if it does: what was logged from there on comes again.
        before: the record of the run that goes on.
    """
    loggers: list[Logger] = []
    for config in filter(None, configs.values()):
        kind = get_class(config._target_)
        arguments: dict[str, Any] = {}
        if issubclass(kind, WandbLogger):
            # Drawn here: W&B's own would be known too late for a run that is cut off.
            arguments["id"] = before.get("wandb_id") or config.get("id") or secrets.token_hex(8)
        elif issubclass(kind, MLFlowLogger) and step is not None:
            arguments["run_id"] = before.get("mlflow_run_id")
        elif issubclass(kind, TensorBoardLogger) and step is not None:
            arguments["purge_step"] = step
        logger = instantiate(config, **arguments)
        if isinstance(logger, CSVLogger) and step is not None:
            _give_back(logger, step)
        loggers.append(logger)
    return loggers


def _give_back(logger: CSVLogger, step: int) -> None:
    """Lightning's logger deletes what it finds: here it is given the rows back, of the steps before `step`."""
    path = Path(logger.log_dir, "metrics.csv")
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if (row["step"] or "").isdecimal() and int(row["step"]) < step]
    with warnings.catch_warnings(action="ignore"):  # of what it deletes
        logger.experiment.metrics = rows
    logger.save()


def logger_facts(trainer: L.Trainer) -> dict[str, Any]:
    """What a run's record keeps for its loggers to go on."""
    facts: dict[str, Any] = {}
    for logger in trainer.loggers if trainer.is_global_zero else []:
        match logger:
            case MLFlowLogger():
                facts["mlflow_run_id"] = logger.run_id
            case WandbLogger():
                facts["wandb_id"] = logger.version
    return facts


def flush(loggers: Iterable[Logger]) -> None:
    """Has the files hold what was logged so far: a kill would take what waits in memory."""
    for logger in loggers:
        match logger:
            case TensorBoardLogger():
                logger.experiment.flush()
            case CSVLogger():
                logger.save()
