"""Resuming a run by its folder: its config.yaml is the truth, with the few keys that may change on top."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from digits.errors import UserError, one_line_errors
from digits.overrides import given_values, job_overrides, log_dir, quoted
from digits.runs.run import CONFIG, Run, newest_run

# What may change: how long the run takes, and where things are.
RESUME_KEYS = (
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.enable_progress_bar",
    "checkpoint_every_seconds",
    "data.root",
    "teacher",
    "log_dir",
    "trust",
)


def asked_folder(arguments: Sequence[str]) -> str | None:
    """What a command line gives for `resume`."""
    return next((value for value in given_values(arguments, "resume")[::-1] if value != "None"), None)


def resume_arguments(arguments: Sequence[str], asked: str) -> list[str]:
    """The command line that resumes a run, with the folder in full. `last` asks for the newest one under log_dir.

    Raises:
        UserError: if there is no such run, or an override would make it another experiment.
    """
    others = [argument for argument in arguments if not argument.lstrip("+").startswith("resume=")]
    changed = [argument for argument in others if argument.partition("=")[0] not in RESUME_KEYS]
    folder, problem = Path(asked).expanduser(), None
    if asked == "last":
        runs = Path(log_dir(others), "train", "runs")
        # Of those that failed, only one with a checkpoint could resume.
        last = newest_run(runs.glob("*"), lambda run: run.status != "failed" or run.last_checkpoint.exists())
        folder = last.folder if last else runs
        problem = None if last else f"resume=last: there is no run in {runs} that could be resumed"
    elif not (folder / CONFIG).is_file():
        problem = f"resume={asked}: not a run's folder, it has no {CONFIG}. Give logs/train/runs/..., or last"
    if changed and not problem:
        problem = (
            f"{changed[0]}: a resumed run keeps its settings; only {', '.join(RESUME_KEYS)} may change."
            " For others, start a new run"
        )
    if problem:
        raise UserError(problem)
    return [*others, f"resume={quoted(str(folder.absolute()))}"]


def requeued_run(arguments: Sequence[str]) -> Path | None:
    """The folder of the run that this command started before SLURM requeued its job; None if there is none."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    given = [Path(value) for value in given_values(arguments, "hydra.run.dir")]
    folders = [*given, *Path(log_dir(arguments), "train", "runs").glob("*")]
    # By the command too, because a job's script may hold several.
    run = newest_run(
        folders,
        lambda run: run.facts.get("slurm_job_id") == job and run.facts.get("command", [])[1:] == list(arguments),
    )
    return run.folder.absolute() if run else None


def resumed_config(cfg: DictConfig) -> tuple[DictConfig, int]:
    """The config of a resumed run: its own, but for the keys that may change, where the command line gives them.

    Args:
        cfg: of the command line; `resume` is the run's folder.

    Returns:
        The config, and the number of epochs that were planned before.

    Raises:
        UserError: if it is damaged or may not be resumed, or the end of its schedule would move.
    """
    with one_line_errors(f"resume={cfg.resume}", f"its {CONFIG} is damaged"):
        saved = Run(cfg.resume).read_config()
        planned, schedule = saved.trainer.max_epochs, dict(saved.scheduler)
        pruning, clean = saved.callbacks.get("pruning"), saved.callbacks.get("clean_epochs")
    given = {override.partition("=")[0] for override in job_overrides()}
    problem = None
    if pruning:
        problem = "a trial of a search. A search resumes when its command is run again"
    if "trainer.max_epochs" in given and cfg.trainer.max_epochs != planned and (_is_planned(schedule) or clean):
        end = f"the learning rate was planned to reach its end in {planned} epochs ({schedule.get('_target_')})"
        if not _is_planned(schedule):
            end = f"callbacks.clean_epochs were planned to be the last of {planned} epochs"
        problem = f"trainer.max_epochs={cfg.trainer.max_epochs}: {end}. Start a new run"
    if problem:
        raise UserError(f"resume={cfg.resume}: {problem}")
    for key in ("resume", "trust", *given.intersection(RESUME_KEYS)):  # whom to trust is never the file's to say
        OmegaConf.update(saved, key, OmegaConf.select(cfg, key), force_add=True)
    return saved, planned


def _is_planned(schedule: Mapping[Any, Any]) -> bool:
    """Whether a schedule depends on how many steps the run has: an `auto` that is no learning rate, or a share."""
    counted = any(value == "auto" and not str(key).endswith("_lr") for key, value in schedule.items())
    return counted or 0 < schedule.get("warmup", 0) < 1
