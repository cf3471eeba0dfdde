"""The way in from the command line: Hydra's main, the run around a task, errors of one line."""

import functools
import io
import logging
import os
import secrets
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from digits.errors import Pruned, UserError
from digits.messages import flat, one_line
from digits.overrides import (
    CONFIGS,
    adopt_targets,
    check_arguments,
    check_job,
    flags_first,
    given_values,
    job_overrides,
    name_in_folder,
    quote_foreign_letters,
)
from digits.runs import processes, sweeps
from digits.runs.resume import asked_folder, requeued_run, resume_arguments, resumed_config
from digits.runs.run import Run
from digits.targets import packages, untrusted

# Set by `command` along with HYDRA_FULL_ERROR, and inherited by the processes that a run starts.
ONE_LINE_ERRORS = "DIGITS_ONE_LINE_ERRORS"
FULL_ERRORS = os.environ.get("HYDRA_FULL_ERROR") == "1" and ONE_LINE_ERRORS not in os.environ

log = logging.getLogger(__name__)

# Tells runs apart that start in the same second.
OmegaConf.register_new_resolver("run_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)
# Cached, as a sweep over names has one folder.
OmegaConf.register_new_resolver("name_in_folder", name_in_folder, use_cache=True, replace=True)
# A resumed run stays in its folder.
OmegaConf.register_new_resolver("folder_of_run", lambda resume, new: str(resume or new), replace=True)
OmegaConf.register_new_resolver("folder_of_job", lambda resume, new: Path(resume).name if resume else new, replace=True)


class JobFailed(Exception):
    """A job of a sweep failed and has said why: the sweep continues, and its exit code tells."""


def command(config_name: str, keeps_run: bool = True) -> Callable[[Callable[..., Any]], Callable[[], None]]:
    """Makes a task into a command: `hydra.main` over `configs/`.

    An error that the user can put right ends the command with one line and exit code 1; any other keeps its
    traceback, and HYDRA_FULL_ERROR=1 shows all of them. In a sweep the other jobs continue, and a summary ends it.

    With `keeps_run` the task takes the config and a `Run`, whose folder keeps what it leaves; else the config alone.
    """

    def decorate(task: Callable[..., Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            try:
                if in_sweep:
                    processes.refuse_sweep_in_many()
                with processes.isolated_environment():
                    if keeps_run:
                        return _in_run(task, cfg)
                    check_job(cfg)
                    return task(cfg)
            except Exception as error:
                return _end_job(error, config_name) if in_sweep else _end(error, config_name)

        hydra_main = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)

        @functools.wraps(task)
        def main() -> None:
            _survive_any_output()
            _find_own_packages()
            before, environment = sys.argv, dict(os.environ)
            sweeps.SweepFolder.current = None
            # Under `uv run`, Ray would copy the project for its jobs and rebuild their environment without extras.
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
            try:
                sys.argv = [sys.argv[0], *_arguments(sys.argv[1:], config_name)]
                if not FULL_ERRORS:
                    # Has Hydra hand its errors on.
                    os.environ |= {"HYDRA_FULL_ERROR": "1", ONE_LINE_ERRORS: "1"}
                hydra_main()
            except KeyboardInterrupt:
                sys.exit(130)
            except JobFailed:
                sys.exit(1)
            except BrokenPipeError:  # by `train.py --help | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would flush it once more
            except Exception as error:
                # A task's own errors ended above: this one is about the command line, whatever Hydra calls it.
                reason = f"{type(error).__name__}: {flat(str(error))} (HYDRA_FULL_ERROR=1 shows where)"
                _end(error if one_line(error, config_name) else UserError(reason), config_name)
            finally:
                sys.argv = before
                processes.restore(environment)
                sweeps.summarise()

        return main

    return decorate


def _arguments(arguments: list[str], config_name: str) -> list[str]:
    """The command line as Hydra gets it.

    Raises:
        UserError: for a combination that cannot work.
    """
    arguments = flags_first([quote_foreign_letters(argument) for argument in arguments])
    if {"-m", "--multirun"} & set(arguments):
        processes.refuse_sweep_in_many()
        arguments = ["--multirun", *(one for one in arguments if one not in ("-m", "--multirun"))]
    if processes.started_by_lightning():
        return processes.secondary_arguments(arguments)
    check_arguments(arguments, config_name)
    if config_name == "train":
        arguments = _resumed(arguments)
    return processes.secondary_arguments(arguments) if processes.is_secondary() else arguments


def _resumed(arguments: list[str]) -> list[str]:
    """The command line of train.py with the folders that are resumed in full."""
    run, sweep = asked_folder(arguments), given_values(arguments, "resume_sweep")[-1:]
    if run and (sweep or "--multirun" in arguments):
        raise UserError(f"resume={run}: resumes one run. A sweep is resumed with resume_sweep=<its folder>")
    if run:
        return resume_arguments(arguments, run)
    if sweep and sweep != ["None"]:
        return sweeps.resume_sweep_arguments(arguments, sweep[0])
    if "--multirun" not in arguments and (requeued := requeued_run(arguments)):
        return resume_arguments([one for one in arguments if one.startswith("trust=")], str(requeued))
    return arguments


def _in_run(task: Callable[..., Any], cfg: DictConfig) -> Any:
    """Runs a task in its run's folder."""
    folder, resume = Path(HydraConfig.get().runtime.output_dir), cfg.get("resume")
    run, in_sweep = Run(folder, resumes=resume), HydraConfig.get().mode == RunMode.MULTIRUN
    shown = sweeps.one_line_each(run) if in_sweep and HydraConfig.get().job.config_name == "train" else nullcontext()
    try:
        with shown, run:
            if not resume:
                adopt_targets(cfg, job_overrides())
            if in_sweep and not resume:
                run.save_config(cfg)  # the sweep's table tells the settings of a job that fails on them
            check_job(cfg)
            if resume:
                cfg, planned = resumed_config(cfg)
                if run.before.get("status") == "completed" and cfg.trainer.max_epochs <= planned:
                    log.info("finished: %s. To train longer than %s epochs: trainer.max_epochs=", folder, planned)
                    return run.before.get("val/acc")
                if problem := untrusted(OmegaConf.to_container(cfg), packages(cfg.trust)):
                    raise UserError(f"resume={folder}: {problem}")
            given = [override for override in job_overrides() if not override.startswith("resume=")]
            changed = {override.partition("=")[0] for override in given}
            kept = [old for old in run.before.get("overrides", []) if old.partition("=")[0] not in changed]
            run.update(overrides=[*kept, *given])
            if "name" in cfg:
                run.update(name=None if cfg.name is None else str(cfg.name), tags=[*map(str, cfg.tags)])
            return task(cfg, run)
    except Exception as error:
        if one_line(error) and not in_sweep:
            run.discard()
        raise


def _end_job(error: Exception, config_name: str) -> None:
    """Says why a job of a sweep ended; the sweep continues with the next one."""
    if isinstance(error, Pruned):
        return
    line = one_line(error, config_name)
    if line is None or FULL_ERRORS:
        traceback.print_exception(error)
    line = line or f"{type(error).__name__}: {error}"
    print(f"error in {HydraConfig.get().runtime.output_dir}: {line}", file=sys.stderr)
    raise JobFailed(line) from None  # Hydra raises this at the end of the sweep


def _end(error: Exception, config_name: str) -> NoReturn:
    """Says why a command ended, at once: Hydra would add a line of its own."""
    if FULL_ERRORS:
        raise error
    line = one_line(error, config_name)
    if line is None:
        traceback.print_exception(error)
    elif processes.is_secondary():
        processes.leave(line)
    else:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


def _find_own_packages() -> None:
    """A package of the user's lies where the command starts, as for `python -m`."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def _survive_any_output() -> None:
    """A terminal without × and →, a closed or a broken pipe must not cost a run or its report."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - open as long as the process lives
    sys.stderr = sys.stderr or sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.raiseExceptions = False  # by `train.py | head`: the log file has the rest
