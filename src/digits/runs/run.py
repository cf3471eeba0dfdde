"""A run's folder: its lock, record, config and checkpoints. One class reads and writes it.

What the folder says may come from anywhere: nothing in it is run, and none of it takes memory or time without bound.
Everything in it is known by its path relative to the folder, so that a run may be moved or copied.
"""

import datetime as dt
import functools
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digits import __version__
from digits.atomic import atomic_write, remove_leftovers
from digits.errors import Pruned, UserError
from digits.messages import flat, one_line
from digits.runs.signals import Interrupts
from digits.targets import foreign_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core")
RECORD, CONFIG = "metrics.json", "config.yaml"
PLAN = "jobs"  # in a sweep's folder: the config of each of its jobs
NO_SETTING = {
    *("log_dir", "resume", "resume_sweep", "checkpoint_every_seconds", "callbacks.pruning.trial", "name", "tags"),
}
MAX_YAML_CHARACTERS, MAX_YAML_DEPTH = 500_000, 50
DPI = 110  # of figures

log = logging.getLogger(__name__)


class Run:
    """A run's folder.

    As a context manager it is the run's process: it holds the lock, takes the signals over and keeps `status` in the
    record: `running`, then `completed`, or `failed`, `interrupted` or `pruned` with the `error`. A resumed run writes
    nothing before the first `update`: what is refused, or finished already, leaves the record as it was.

    Args:
        folder: where it is.
        resumes: the folder of the run that the process resumes: the same, except in the second and further of several
            processes, whose own folder is a temporary one.

    Attributes:
        facts: what `metrics.json` says; in the run's own process, what it is going to say.
        before: what the record of the resumed run said.
    """

    def __init__(self, folder: str | Path, resumes: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.home = Path(resumes or folder)  # where the first process keeps the checkpoints
        self.resumed = resumes is not None
        self.facts = self._read_record()
        self.before: dict[str, Any] = Run(self.home).facts if self.resumed else {}
        self.interrupts = Interrupts()
        self._lock = FileLock(self.folder / ".lock", timeout=0)
        self._written = False
        self._started = time.perf_counter()

    # Reading

    @property
    def status(self) -> str:
        """As recorded; `crashed` where that is `running`, but no process is; `unreadable` for a damaged record."""
        status = self.facts.get("status", "unreadable")
        return "crashed" if status == "running" and not self.is_running else status

    @property
    def error(self) -> str:
        """Why it is not completed."""
        if self.status == "crashed":
            resumable = (self.folder / CONFIG).exists()
            return f"its process died.{f' Resume: {self.resume_command}' if resumable else ''}"
        return self.facts.get("error") or ""

    @property
    def figures(self) -> dict[str, float]:
        """By name, such as `test/acc`: of the tested weights."""
        return {name: value for name, value in self.facts.items() if "/" in name}

    @property
    def dataset(self) -> str | None:
        """What the images are: accuracies on data of different names do not compare."""
        return self.facts.get("data") or self.facts.get("dataset")

    @cached_property
    def config(self) -> DictConfig:
        """The resolved config; empty where it is missing or damaged."""
        try:
            return self.read_config()
        except (OSError, ValueError):
            return OmegaConf.create({})

    def read_config(self) -> DictConfig:
        """The resolved config: keys with values, plain data.

        Raises:
            OSError: if it cannot be read.
            ValueError: if it is damaged.
        """
        return OmegaConf.create(read_yaml(self.folder / CONFIG))

    @property
    def checkpoint(self) -> Path | None:
        """The best one so far, which a completed run has tested, else the last; None where neither is there."""
        best = self.facts.get("best_checkpoint")
        paths = [self.folder / best] if best else []
        return next((path for path in (*paths, self.last_checkpoint) if path.is_file()), None)

    @property
    def last_checkpoint(self) -> Path:
        """The one to resume from."""
        return self.home / "checkpoints" / "last.ckpt"

    @property
    def is_running(self) -> bool:
        """Whether a process is at work in the folder: its lock dies with it."""
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                return False
        except (Timeout, OSError):  # a folder that cannot be written to cannot tell
            return True

    @property
    def overrides(self) -> list[str]:
        """As typed, but for those that say where the run is and what it belongs to."""
        return [one for one in self.facts.get("overrides", []) if one.partition("=")[0].lstrip("+~") not in NO_SETTING]

    @property
    def command(self) -> str:
        """Trains it again; quoted for a shell."""
        searched = any(one.startswith("hparams_search=") for one in self.overrides)
        mode = ["hydra.mode=RUN"] if searched else []
        return shlex.join(["python", "train.py", *self.config_dir, *mode, *self.overrides])

    @property
    def config_dir(self) -> list[str]:
        """Hydra's flag for a folder of configs of one's own, if it was given."""
        given = iter(self.facts.get("command", []))
        return next(([one, next(given, "")] for one in given if one in ("--config-dir", "-cd")), [])

    @property
    def resume_command(self) -> str:
        packages = foreign_packages(OmegaConf.to_container(self.config))
        trust = [f"trust=[{','.join(packages)}]"] if packages else []
        return shlex.join(["python", "train.py", f"resume={self.folder}", *trust])

    def _read_record(self) -> dict[str, Any]:
        try:
            text = (self.folder / RECORD).read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            return {"status": "unreadable", "error": f"{RECORD} cannot be read ({error})"}
        from pydantic import ValidationError  # here, as it takes a while, for which --help should not wait

        from digits import validation
        from digits.runs.record import parse_record

        try:
            return parse_record(text)
        except ValidationError as error:
            return {"status": "unreadable", "error": f"{RECORD} is damaged ({validation.one_line(error, '')})"}

    # Writing

    def __enter__(self) -> Self:
        try:
            self._lock.acquire(timeout=1)  # another process may be asking `is_running`
        except Timeout:
            raise UserError(f"{self.folder}: another process is at work in this folder. Wait for its end") from None
        remove_leftovers(self.folder, self.folder / "checkpoints")
        now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
        self.facts = {
            "status": "running",
            "started_at": self.before.get("started_at", now),
            "duration_seconds": None,
            "command": self.before.get("command", [Path(sys.argv[0]).name, *sys.argv[1:]]),
            # Its own not from the metadata of packages: a checkout runs without being installed too.
            "versions": {"python": platform.python_version(), "digits": __version__}
            | {name: importlib.metadata.version(name) for name in PACKAGES},
            **code_state(),
        }
        if job := os.environ.get("SLURM_JOB_ID"):
            self.facts["slurm_job_id"] = job  # by which it is found when SLURM requeues it
        self.interrupts.__enter__()
        if self.resumed:
            self.facts["best_checkpoint"] = self.before.get("best_checkpoint")
            self.facts["resumed_at"] = [*self.before.get("resumed_at", []), now]
        else:
            self.update()
        return self

    def update(self, **facts: Any) -> None:
        """Adds facts to the record and writes it."""
        self._written = True
        self.facts |= facts
        before = self.before.get("duration_seconds") or 0.0
        self.facts["duration_seconds"] = round(before + time.perf_counter() - self._started, 2)
        with atomic_write(self.folder / RECORD) as part:
            part.write_text(json.dumps(_finite(self.facts), indent=2, allow_nan=False, default=str) + "\n")

    def save_config(self, cfg: DictConfig) -> None:
        """Writes the resolved config. From then on the run can be resumed."""
        self.config = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        with atomic_write(self.folder / CONFIG) as part:
            OmegaConf.save(self.config, part)

    def save_figure(self, name: str, figure: "Figure") -> Path:
        """Writes a figure as `<name>.png`."""
        path = self.folder / f"{name}.png"
        with atomic_write(path) as part:
            figure.savefig(part, dpi=DPI)
        return path

    def relative(self, path: str | Path) -> str:
        """A path as the record keeps it: relative to the folder, if it lies in it."""
        path, folder = Path(path).absolute(), self.folder.absolute()
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if not self._written:
                return
            if kind is None:
                self.update(status="completed")
            elif issubclass(kind, KeyboardInterrupt | SystemExit):
                resume = f" Resume: {self.resume_command}" if (self.folder / CONFIG).exists() else ""
                self.update(status="interrupted", error=f"by {self.interrupts.name}.{resume}")
                log.warning("interrupted by %s.%s", self.interrupts.name, resume)
            elif issubclass(kind, Pruned):
                self.update(status="pruned", error=str(error))
            else:
                with suppress(UserError):  # on a full disk, of which the first error tells
                    line = one_line(error) if error else None
                    self.update(status="failed", error=line or f"{kind.__name__}: {flat(str(error))}")
        finally:
            self.interrupts.__exit__()
            self._lock.release()

    def discard(self) -> None:
        """Removes what a refused start has left: a folder with a config is a run, and stays."""
        if not self.resumed and not (self.folder / CONFIG).exists():
            for path in (*self.folder.glob("*.log"), self.folder / RECORD, self.folder / ".lock"):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # it holds something else
                self.folder.rmdir()


def newest_run(folders: Iterable[Path], which: Callable[[Run], object]) -> Run | None:
    """The run with the newest config for which `which` is true."""
    with_time = sorted(((folder / CONFIG).stat().st_mtime, folder) for folder in folders if (folder / CONFIG).exists())
    return next((run for run in (Run(folder) for _, folder in reversed(with_time)) if which(run)), None)


def newest_checkpoint(log_dir: str | Path = "logs") -> Path:
    """The best checkpoint of the newest training under a folder of logs.

    Raises:
        UserError: if there is none.
    """
    folders = (path.parent for path in Path(log_dir, "train").rglob(CONFIG))
    run = newest_run(folders, lambda run: run.checkpoint)
    if run is None or run.checkpoint is None:
        raise UserError(
            f"there is no checkpoint under {log_dir}/train. Train one: python train.py; or give ckpt_path=..."
        )
    return run.checkpoint


def natural(name: str) -> list[str | int]:
    """A key to sort by: job 10 after job 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


@functools.cache
def code_state() -> dict[str, Any]:
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


def read_yaml(path: Path) -> Any:
    """The keys and values of a YAML file of this project's, all of them resolved.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged.
    """
    text = path.read_text(encoding="utf-8")
    try:
        # Small, it could still unfold endlessly, or call a resolver.
        problem = _yaml_bomb(text)
        plain = None if problem else OmegaConf.to_container(OmegaConf.create(text))
        if "${" in json.dumps(plain):
            problem = "interpolations, where everything has to be resolved"
        elif not (problem or isinstance(plain, dict)):
            problem = f"keys with values are expected, not a {type(plain).__name__}"
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, AttributeError) as error:
        problem = flat(str(error))
    if problem:
        raise ValueError(problem)
    return plain


def _yaml_bomb(text: str) -> str | None:
    """What could take memory or time without bound; None if nothing could."""
    if len(text) > MAX_YAML_CHARACTERS:
        return f"more than {MAX_YAML_CHARACTERS:,} characters"
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # libyaml, ten times as fast
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > MAX_YAML_DEPTH:
            return "aliases, or nested too deep"
    return None


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
