"""Several processes of one run: the first one reports, the others are silent, and none is left over."""

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig

from digits.errors import UserError
from digits.sweeps import quoted

# Set for the processes that Lightning starts beside this one: the overrides of the job that they are to share.
JOB_OVERRIDES = "DIGITS_JOB_OVERRIDES"


def started_by_lightning() -> bool:
    """Whether the first process of the run started this one, which torchrun and SLURM do themselves."""
    return JOB_OVERRIDES in os.environ


def refuse_sweep_in_many(words: list[str]) -> None:
    """Refuses `-m` where each process was started with it from outside.

    Raises:
        UserError: if so.
    """
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1 or is_secondary()
    if several and not started_by_lightning() and {"-m", "--multirun"} & set(words):
        raise UserError("-m does not go with torchrun or srun, which start every process with the whole sweep")


def is_secondary() -> bool:
    """Whether this is one of several processes of a run, but not its first."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def secondary_words(words: list[str]) -> list[str]:
    """The first process's run, silent and in a folder that nobody will look at.

    Lightning starts its processes with the first one's command line. In a sweep that would be the whole sweep; as it
    is, it is the overrides of the one job.
    """
    if overrides := os.environ.get(JOB_OVERRIDES):
        words = json.loads(overrides)
    folder = tempfile.mkdtemp(prefix="digits-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    silent = ["hydra.mode=RUN", "hydra.output_subdir=null", "hydra.job_logging.root.level=ERROR"]
    return [*words, *silent, f"hydra.run.dir={quoted(folder)}"]


@contextmanager
def alone_in_its_environment() -> Iterator[None]:
    """Leaves nothing of a run's several processes behind, for the next job of a sweep to begin anew."""
    before = dict(os.environ)
    os.environ[JOB_OVERRIDES] = json.dumps(list(HydraConfig.get().overrides.task))
    try:
        yield
    finally:
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
