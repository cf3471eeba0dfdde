"""The record of a run: one metrics.json that always says where the run stands."""

import datetime as dt
import importlib.metadata
import json
import logging
import math
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from digits.atomic import atomic_write
from digits.errors import Pruned, UserError
from digits.runs.remembered import read_record

log = logging.getLogger(__name__)

PACKAGES = ("digits", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core")


class RunRecord:
    """Facts of a run, kept in `metrics.json` from its start to its end.

    As a context manager it sets `status`: `running`, then `completed`, or `failed`, `interrupted` or `pruned` with
    the `error`. A run that was killed stays `running`: `is_running` tells whether it is. Meanwhile no other process
    gets into the folder.

    Args:
        folder: the run's folder.
        go_on: the command that goes on where this one is interrupted, if there is one.
        resumed: it is the record of a run that goes on: nothing is written before the first `update`, so that what is
            refused, or finished already, leaves the record as it was.

    Attributes:
        before: the record of the run that goes on, as it was.
    """

    def __init__(self, folder: Path, go_on: str | None = None, resumed: bool = False) -> None:
        self.path = folder / "metrics.json"
        self._lock = _lock_of(folder)
        self._go_on = go_on
        self.before: dict[str, Any] = {}
        self._resumed, self._written = resumed, False
        self.facts = {
            "status": "running",
            "started_at": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
            "duration_seconds": None,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in PACKAGES},
            **git_state(),
        }
        if job := os.environ.get("SLURM_JOB_ID"):
            self.facts["slurm_job_id"] = job  # by which it is found where SLURM requeues it
        self._start = time.perf_counter()

    def update(self, **facts: Any) -> None:
        """Adds facts and writes the file."""
        self._written = True
        self.facts |= facts
        before = self.before.get("duration_seconds") or 0.0
        self.facts["duration_seconds"] = round(before + time.perf_counter() - self._start, 2)
        with atomic_write(self.path) as part:
            part.write_text(json.dumps(_finite(self.facts), indent=2, allow_nan=False, default=str) + "\n")

    def save_config(self, cfg: DictConfig) -> None:
        """Writes `config.yaml`, resolved."""
        with atomic_write(self.path.with_name("config.yaml")) as part:
            OmegaConf.save(cfg, part, resolve=True)

    def __enter__(self) -> Self:
        folder = self.path.parent
        try:
            self._lock.acquire(timeout=1)  # somebody may be looking: see is_running
        except Timeout:
            raise UserError(f"{folder}: another process is at work in this folder. Wait for its end") from None
        for part in (*folder.glob(".[0-9]*.*"), *folder.glob("checkpoints/.[0-9]*.*")):
            part.unlink(missing_ok=True)  # what a killed process was writing: see digits.atomic
        if self._resumed:
            self.before = read_record(folder)
            now = self.facts["started_at"]
            self.facts["started_at"] = self.before.get("started_at", now)
            self.facts["resumed_at"] = [*self.before.get("resumed_at", []), now]
        else:
            self.update()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if not self._written:
                return
            if kind is None:
                self.update(status="completed")
            elif issubclass(kind, KeyboardInterrupt | SystemExit):
                begun = self.path.with_name("config.yaml").exists()  # before, there is nothing to go on with
                go_on = f" Go on: {self._go_on}" if self._go_on and begun else ""
                self.update(status="interrupted", error=f"by {_signal(error)}.{go_on}")
                log.warning("interrupted by %s.%s", _signal(error), go_on)
            elif issubclass(kind, Pruned):
                self.update(status="pruned", error=str(error))
            else:
                with suppress(UserError):  # on a full disk, of which the first error has told
                    told = error.__cause__ if error and isinstance(error.__cause__, UserError) else error
                    self.update(status="failed", error=f"{type(told).__name__}: {' '.join(str(told).split())}")
        finally:
            self._lock.release()


def is_running(folder: Path) -> bool:
    """Whether a process is at work in a run's folder: its lock dies with it."""
    try:
        with _lock_of(folder):
            return False
    except (Timeout, OSError):  # a folder that cannot be written to cannot tell
        return True


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder / ".lock", timeout=0)


def _signal(error: BaseException | None) -> str:
    """What interrupted: KeyboardInterrupt, or an exit as after a signal."""
    code = getattr(error, "code", 0)
    names = {128 + number: number.name for number in signal.Signals}
    return names.get(code, type(error).__name__)


def tested_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run tests: the best by validation, else the last; None where it saved neither."""
    paths = (folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    return next((path for path in paths if path.exists()), None)


def git_state() -> dict[str, Any]:
    """The project's commit, and whether files differ from it; None where there is no git."""
    project = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", *arguments], cwd=project, capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return {"git_commit": commit, "git_dirty": bool(git("status", "--porcelain")) if commit else None}


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
