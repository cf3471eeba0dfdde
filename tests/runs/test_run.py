"""The run's record: what metrics.json says at each stage of a run's life."""

import importlib.metadata
import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest

from digits.runs.run import Run


def read(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_finished_run(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        assert read(tmp_path)["status"] == "running"
        run.update(seed=3, **{"test/acc": 0.5})
        assert read(tmp_path)["test/acc"] == 0.5
    found = read(tmp_path)
    assert found["status"] == "completed"
    assert found["seed"] == 3
    assert found["duration_seconds"] >= 0
    assert {"torch", "lightning", "python"} <= found["versions"].keys()
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", ".lock"}


def test_version_of_a_checkout_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "digits":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    expected = installed("digits")  # what pyproject.toml says
    monkeypatch.setattr(importlib.metadata, "version", version)
    with Run(tmp_path):
        assert read(tmp_path)["versions"]["digits"] == expected


def test_failed_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Run(tmp_path):
        1 / 0  # noqa: B018
    assert read(tmp_path)["status"] == "failed"
    assert read(tmp_path)["error"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_interrupted_run(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), Run(tmp_path):
        raise error
    assert read(tmp_path)["status"] == "interrupted"


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        run.update(values=[1.0, math.nan, {"inf": math.inf}])
    assert read(tmp_path)["values"] == [1.0, None, {"inf": None}]


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_commit_is_gits(tmp_path: Path) -> None:
    with Run(tmp_path):
        pass
    project = Path(__file__).parent
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=False)
    assert read(tmp_path)["git_commit"] == (answer.stdout.strip() or None)
