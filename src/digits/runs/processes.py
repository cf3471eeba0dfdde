"""Several processes of one run: the first one reports, the others are silent, and none outlives the run."""

import atexit
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from digits.errors import UserError
from digits.overrides import job_overrides, quoted

if TYPE_CHECKING:
    import lightning as L

# Set for the processes that Lightning starts beside this one: the overrides of the job that they are to share.
JOB_OVERRIDES = "DIGITS_JOB_OVERRIDES"
IN_SWEEP = "DIGITS_IN_SWEEP"  # set too if that job is a sweep's
GRACE_SECONDS = 3


def started_by_lightning() -> bool:
    """Whether the first process of the run started this one, which torchrun and SLURM do themselves."""
    return JOB_OVERRIDES in os.environ


def refuse_sweep_in_many() -> None:
    """Refuses a sweep whose every process was started from outside: each would run all of it.

    Raises:
        UserError: if so.
    """
    sizes = (os.environ.get(name) or 1 for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    if not started_by_lightning() and (any(int(size) > 1 for size in sizes) or is_secondary()):
        raise UserError("a sweep does not go with torchrun or srun, which start every process with all of it")


def check_processes(trainer: "L.Trainer") -> None:
    """Refuses several processes where nothing would start the others, for which the first would wait in silence.

    Raises:
        UserError: if so.
    """
    world_size, problem = trainer.world_size, None
    environment = getattr(trainer.strategy, "cluster_environment", None)
    alone = environment is None or not environment.creates_processes_externally
    # Lightning starts the others by this one's command line, which a launcher's worker process does not have.
    launcher = HydraConfig.get().runtime.choices.get("hydra/launcher", "basic")
    if trainer.num_nodes > 1 and alone and "NODE_RANK" not in os.environ:
        problem = (
            f"trainer.num_nodes={trainer.num_nodes}: this process was started alone. Start one for each device, on each"
            " machine, with torchrun or srun: see docs/runs.md"
        )
    elif world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN and launcher != "basic":
        problem = f"trainer.devices: {world_size} processes in a job of a sweep need hydra/launcher=basic"
    if problem:
        raise UserError(problem)


def is_secondary() -> bool:
    """Whether this is one of several processes of a run, but not its first."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def from_each_process(value: Any) -> list[Any]:
    """A value of each of a run's processes, in the order of their ranks; all of them have to ask."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def secondary_arguments(arguments: list[str]) -> list[str]:
    """The command line for the first process's run, silent and in a temporary folder.

    Lightning starts its processes with the first one's command line. In a sweep that would be the whole sweep, so the
    first process hands over the overrides of the one job.
    """
    if overrides := os.environ.get(JOB_OVERRIDES):
        arguments = json.loads(overrides)
    folder = tempfile.mkdtemp(prefix="digits-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    silent = ["hydra.mode=RUN", "hydra.job_logging.root.level=ERROR"]
    return [*arguments, *silent, f"hydra.run.dir={quoted(folder)}"]


def leave(line: str) -> NoReturn:
    """Ends a process that is not its run's first on an error of one line, which the first one usually has too.

    Lightning kills the first process once one that it started fails. So the first one gets time to say what is wrong;
    in a sweep it has further jobs to do, and is not to be killed at all.
    """
    grace = GRACE_SECONDS if IN_SWEEP in os.environ else 3 * GRACE_SECONDS
    first, until = os.getppid(), time.monotonic() + grace
    while os.getppid() == first and time.monotonic() < until:
        time.sleep(0.1)
    if started_by_lightning() and (IN_SWEEP in os.environ or os.getppid() != first):
        sys.exit(0)
    print(f"error: {line} (in process {os.environ.get('RANK') or os.environ.get('LOCAL_RANK')})", file=sys.stderr)
    sys.exit(1)


@contextmanager
def isolated_environment() -> Iterator[None]:
    """Restores the environment after a job, so that the next job of a sweep starts from the same one."""
    before = dict(os.environ)
    os.environ[JOB_OVERRIDES] = json.dumps(job_overrides())
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        os.environ[IN_SWEEP] = "1"
    try:
        yield
    finally:
        if wandb := sys.modules.get("wandb"):
            wandb.finish()  # or the next job of this process would log into this one's run
        if distributed := sys.modules.get("torch.distributed"):
            if distributed.is_available() and distributed.is_initialized():
                distributed.destroy_process_group()
            if "OMP_NUM_THREADS" not in before and (threads := os.environ.get("OMP_NUM_THREADS")):
                # Lightning has divided them among the processes of the machine.
                sys.modules["torch"].set_num_threads(int(threads) * int(os.environ.get("WORLD_SIZE", 1)))
        restore(before)


def restore(environment: dict[str, str]) -> None:
    """Makes the environment variables what they were."""
    os.environ.clear()
    os.environ.update(environment)
