"""Everything that depends on a logger's class: how it is opened and resumed, takes pictures and hyperparameters."""

import csv
import secrets
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from digits.metrics import OBJECTIVE
from digits.runs.run import Run
from digits.targets import make_kind, parameters_of, target_of


class CurvesLogger(TensorBoardLogger):
    """TensorBoard with training and validation in one chart, and the charts that one looks at first on top.

    TensorBoard overlays equal tags of different runs, and sorts groups of tags by name: `train/x` and `val/x` become
    `curves/x` in the sub-runs `train` and `val`. Below them come the pictures, as `pictures/x`, and the figures of the
    tested checkpoint, as `tested/x`.

    Args:
        arguments: of Lightning's TensorBoardLogger.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._stages: dict[str, TensorBoardLogger] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        others = {}
        for name, value in metrics.items():
            stage, _, metric = name.partition("/")
            if stage in ("train", "val") and metric:
                self._stage(stage).log_metrics({f"curves/{metric}": value}, step)
            elif stage not in ("test", "epoch"):  # the test's come with the hyperparameters
                others[name] = value
        super().log_metrics(others, step)

    def _stage(self, stage: str) -> TensorBoardLogger:
        if stage not in self._stages:
            self._stages[stage] = TensorBoardLogger(
                self.save_dir, self.name, self.version, prefix=self._prefix, sub_dir=stage, **self._kwargs
            )
        return self._stages[stage]

    @rank_zero_only
    def flush(self) -> None:
        for logger in (self, *self._stages.values()):
            logger.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        for logger in self._stages.values():
            logger.experiment.close()


def open_loggers(configs: DictConfig, run: Run, step: int | None) -> list[Logger]:
    """Makes the loggers that the config names; one that has a parameter `run` is handed the run.

    Args:
        configs: of each logger by a name, or null in its place. A `save_dir` is relative to the run's folder.
        run: the run; its record before knows what it logged to.
        step: where the run resumes, if it does: what was logged from there on is logged again.
    """
    loggers: list[Logger] = []
    named, tags = run.facts.get("name") or str(run.home), list(run.facts.get("tags", []))
    for name, config in configs.items():
        if not config:
            continue
        key = f"logger.{name!s}"
        kind = target_of(key, config)
        arguments: dict[str, Any] = {"run": run} if "run" in parameters_of(kind) else {}
        if config.get("save_dir") is not None:
            arguments["save_dir"] = str(run.folder / config.save_dir)
        if _is(kind, WandbLogger):
            # Drawn here: W&B's own would be known too late for a run that is interrupted.
            arguments["id"] = run.before.get("wandb_id") or config.get("id") or secrets.token_hex(8)
            arguments["name"] = config.get("name") or named
            arguments["tags"] = [*(config.get("tags") or []), *tags]
        elif _is(kind, MLFlowLogger):
            arguments["run_name"] = config.get("run_name") or named
            arguments["tags"] = {"tags": ", ".join(tags), **(config.get("tags") or {})} if tags else config.get("tags")
            arguments["run_id"] = run.before.get("mlflow_run_id") if step is not None else None
        elif _is(kind, TensorBoardLogger) and step is not None:
            arguments["purge_step"] = step
        logger = make_kind(key, config, Logger, **arguments)  # type: ignore[type-abstract]
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
            case CurvesLogger():
                logger.flush()
            case TensorBoardLogger():
                logger.experiment.flush()
            case CSVLogger():
                logger.save()


def log_picture(trainer: L.Trainer, path: Path) -> None:
    """Gives a PNG to the loggers that take pictures: those of one's own with W&B's `log_image(key, images)`."""
    for logger in trainer.loggers:
        match logger:
            case TensorBoardLogger():
                # The picture itself: TensorBoard's add_figure would draw it a second time, which takes as long again.
                from matplotlib.image import imread

                pixels = imread(path)[..., :3]
                logger.experiment.add_image(f"pictures/{path.stem}", pixels, trainer.global_step, dataformats="HWC")
            case MLFlowLogger():
                logger.experiment.log_artifact(logger.run_id, str(path))
            case _ if hasattr(logger, "log_image"):
                logger.log_image(path.stem, [str(path)])


def log_hyperparameters(trainer: L.Trainer, run: Run) -> None:
    """Gives the loggers the settings, and the run's figures once they are known: those of the tested checkpoint.

    They are logged under `best/...`, in TensorBoard under `tested/...`, which comes after the curves: under their own
    names they would put a point into these.
    """
    settings: Any = OmegaConf.to_container(run.config)
    shown = {name: settings[name] for name in ("model", "optimizer", "scheduler", "augmentation", "mixing", "seed")}
    data = settings["data"]
    shown["data"] = {name: data[name] for name in ("_target_", "dataset", "batch_size") if name in data}
    shown |= {name: run.facts[name] for name in ("name", "tags", "distillation") if run.facts.get(name)}
    for part in shown.values():
        if isinstance(part, dict):
            part.pop("_partial_", None)  # Hydra's, not a setting
    step = trainer.global_step  # after the last epoch's curves: to resume from there takes these figures away
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):  # both at once: what its HPARAMS tab shows
            ranked = sorted(run.figures, key=lambda name: name != OBJECTIVE)  # the tab shows the first one
            logger.log_hyperparams(shown, {f"tested/{name}": run.figures[name] for name in ranked}, step)
        else:
            logger.log_hyperparams(shown)
            logger.log_metrics({f"best/{name}": value for name, value in run.figures.items()}, step)
            logger.save()
    flush(trainer.loggers)
