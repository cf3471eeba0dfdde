"""The loggers of a run: where it goes on, so do their curves."""

import csv
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from omegaconf import DictConfig


def open_loggers(configs: DictConfig, step: int | None = None, before: Mapping[str, Any] | None = None) -> list[Logger]:
    """Makes the loggers that the config names.

    Args:
        configs: of each logger by its name, or null in its place.
        step: where the run goes on, if it does: what was logged from there on comes again.
        before: the record of the run that goes on.
    """
    loggers = []
    for name, config in configs.items():
        if not config:
            continue
        if step is None:
            loggers.append(instantiate(config))
        elif name == "tensorboard":
            loggers.append(instantiate(config, purge_step=step))
        elif name == "mlflow":
            loggers.append(instantiate(config, run_id=(before or {}).get("mlflow_run_id")))
        elif name == "csv":
            loggers.append(_resumed_csv(instantiate(config), step))
        else:  # wandb goes on by the id in its config
            loggers.append(instantiate(config))
    return loggers


def _resumed_csv(logger: CSVLogger, step: int) -> CSVLogger:
    """Lightning's logger deletes what it finds: here it is given the rows back, of the steps before `step`."""
    path = Path(logger.log_dir, "metrics.csv")
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    with warnings.catch_warnings(action="ignore"):  # of what it deletes
        logger.experiment.metrics = rows
    logger.save()
    return logger


def logger_facts(trainer: L.Trainer) -> dict[str, Any]:
    """What a run's record keeps for its loggers to go on."""
    runs = [logger.run_id for logger in trainer.loggers if isinstance(logger, MLFlowLogger)]
    return {"mlflow_run_id": runs[0]} if runs and trainer.is_global_zero else {}


def flush(loggers: Iterable[Logger]) -> None:
    """Has the files hold what was logged so far: a kill would take what waits in memory."""
    for logger in loggers:
        match logger:
            case TensorBoardLogger():
                logger.experiment.flush()
            case CSVLogger():
                logger.save()
