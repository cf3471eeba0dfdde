"""Each command in the README's bash blocks runs as it stands there, in the order in which it stands there."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import NOWHERE, PROJECT

pytestmark = pytest.mark.slow

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
# Minutes or hours of measuring, here as short as can be.
MEASURED = {
    "make benchmark": ["benchmarks.epoch_time", "--rounds", "1"],
    "python -m benchmarks.accuracy": ["benchmarks.accuracy", "--rows", "fast", "--seeds", "1"],
    "python -m benchmarks.inference": ["benchmarks.inference", "--rounds", "1"],
}
CI = (PROJECT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the project, whose logs are its own."""
    folder = tmp_path_factory.mktemp("workspace")
    names = ("train.py", "eval.py", "benchmarks", "src", "configs", "docs", "Makefile", "README.md", "pyproject.toml")
    for name in names:
        (folder / name).symlink_to(PROJECT / name)
    return folder


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with its own Python first and no way to the network."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | proxies | {"PATH": path, "no_proxy": ""} | changes


def test_readme_has_commands() -> None:
    assert len(COMMANDS) > 8
    assert {"make train", "make test", "python train.py"} <= set(COMMANDS)


@pytest.mark.parametrize("command", list(dict.fromkeys(COMMANDS)))
def test_command_runs(command: str, workspace: Path, request: pytest.FixtureRequest) -> None:
    program, *words = shlex.split(command)
    if command == "make train":
        # With no data and no network but the package index: the embedded sample, and what is promised of it.
        root = workspace / "none"
        run = [*shlex.split(command), f"ARGS=log_dir={workspace / 'made'}"]
        subprocess.run(run, cwd=PROJECT, env=environment(DIGITS_DATA=str(root)), check=True, timeout=600)
        [path] = (workspace / "made").glob("train/runs/*/metrics.json")
        record = json.loads(path.read_text())
        assert record["dataset"] == "mnist5k"
        assert record["test/acc"] >= 0.96
        assert record["train_seconds"] < 600  # the promise is a minute; a test asserts no time but a hang
    elif command in MEASURED:
        root = request.getfixturevalue("mnist_root")
        answer = subprocess.run(
            [sys.executable, "-m", *MEASURED[command]],
            cwd=workspace,
            env=environment(DIGITS_DATA=str(root)),
            capture_output=True,
            text=True,
            check=True,
        )
        assert "times as fast" in answer.stdout or "% | " in answer.stdout
    elif program == "make":
        assert f"\nmake {words[0]}" in CI, f".ci/run does not run {command}"
    elif program == "source":
        assert words == [".venv/bin/activate"]
    elif program == "tensorboard":
        serves_the_runs(command, workspace)
    elif program == "pip":
        installs(workspace, words)
    else:
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=workspace,
            env=environment(DIGITS_DATA=str(workspace / "none")),
            check=True,
            timeout=900,
        )


def serves_the_runs(command: str, workspace: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    runs: list[str] = []
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    server = subprocess.Popen([*shlex.split(command), "--port", port], cwd=workspace, env=environment())
    try:
        for _ in range(60):
            time.sleep(1)
            try:
                with direct.open(f"http://127.0.0.1:{port}/data/runs") as answer:
                    runs = json.load(answer)
            except OSError:
                continue
            if runs:
                break
        assert any(run.startswith("train/runs/") for run in runs)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def installs(workspace: Path, words: list[str]) -> None:
    """The package installs from a checkout, its dependencies left aside: they are gigabytes."""
    assert words == ["install", "-e", "."]
    venv = workspace / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", "--no-deps", "-e", PROJECT], check=True)
    code = "import digits; print(digits.__file__)"
    answer = subprocess.run([venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert Path(answer.stdout.strip()).resolve() == PROJECT / "src" / "digits" / "__init__.py"
