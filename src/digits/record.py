"""The record of a run: one metrics.json that always says where the run stands."""

import datetime as dt
import importlib.metadata
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from digits.errors import Pruned

PACKAGES = ("digits", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core")


class RunRecord:
    """Facts of a run, kept in `metrics.json` from its start to its end.

    As a context manager it sets `status`: `running`, then `completed`, or `failed`, `interrupted` or `pruned` with
    the `error`. A run that was killed stays `running`. The file is replaced in one step, so it is never half-written.

    Args:
        folder: the run's folder.
        facts: what is known at the start.
    """

    def __init__(self, folder: Path, **facts: Any) -> None:
        self.path = folder / "metrics.json"
        self.facts = {
            "status": "running",
            **facts,
            "started_at": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
            "duration_seconds": None,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in PACKAGES},
            **git_state(),
        }
        self._start = time.perf_counter()

    def update(self, **facts: Any) -> None:
        """Adds facts and writes the file."""
        self.facts |= facts
        self.facts["duration_seconds"] = round(time.perf_counter() - self._start, 2)
        part = self.path.with_suffix(".json.part")
        part.write_text(json.dumps(_finite(self.facts), indent=2, allow_nan=False, default=str) + "\n")
        part.replace(self.path)

    def __enter__(self) -> Self:
        self.update()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None:
            self.update(status="completed")
        elif issubclass(kind, KeyboardInterrupt | SystemExit):
            self.update(status="interrupted", error=f"{kind.__name__}: {error}")
        elif issubclass(kind, Pruned):
            self.update(status="pruned", error=str(error))
        else:
            self.update(status="failed", error=f"{kind.__name__}: {' '.join(str(error).split())}")


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
