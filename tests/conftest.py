"""Shared fixtures: real digits without a network, MNIST where it is on disk, and the commands run in place."""

import gc
import importlib
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are divided among the workers; torch looks when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hydra._internal.hydra import Hydra
from tensorboard.summary.writer import event_file_writer
from torchvision.datasets import EMNIST, KMNIST, MNIST, QMNIST, USPS, FashionMNIST

from digits.data import DigitsDataModule
from digits.data.datasets import FashionMnist, Mnist

PROJECT = Path(__file__).parents[1]
# What reading pictures must not wait for.
HEAVY = {
    *("lightning", "torchmetrics", "torchvision", "matplotlib.pyplot", "pandas", "seaborn", "sklearn", "skimage"),
    *("kornia", "tensorboard", "optuna", "captum", "onnx", "onnxruntime.quantization", "torch._dynamo"),
}
# TensorBoard reads a folder's files by name: of two writers of one second, "9" would come after "10".
event_file_writer._global_uid = event_file_writer.AtomicCounter(10_000)
GET_MODE = Hydra.get_mode
RELIABILITY = "reliability: "
SEED = int(os.environ.get("DIGITS_FUZZ_SEED", "1"))  # that one is known to pass: try others
NOWHERE = "http://127.0.0.1:9/"  # nothing listens there: refused at once


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures that the tests of `reliability` recorded: what happened how often, of how many."""
    figures: dict[str, list[int]] = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        for name, value in getattr(report, "user_properties", []):
            if name.startswith(RELIABILITY) and report.when == "call":
                figures.setdefault(name.removeprefix(RELIABILITY), []).append(value)
    if figures:
        terminalreporter.section(f"reliability, DIGITS_FUZZ_SEED={SEED}")
        for name, values in figures.items():
            count, of = (sum(part) for part in zip(*values, strict=True))
            terminalreporter.write_line(f"{count:,} of {of:,} {name}")


def pytest_collection_finish() -> None:
    """What is imported by now stays: looking through it for garbage would take a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for dataset in (MNIST, FashionMNIST, KMNIST):
        monkeypatch.setattr(dataset, "mirrors", [NOWHERE])
    monkeypatch.setattr(EMNIST, "url", f"{NOWHERE}gzip.zip")
    resources = {
        what: [(NOWHERE + Path(url).name, md5) for url, md5 in files] for what, files in QMNIST.resources.items()
    }
    monkeypatch.setattr(QMNIST, "resources", resources)
    split_list = {part: [NOWHERE + name, name, md5] for part, (_, name, md5) in USPS.split_list.items()}
    monkeypatch.setattr(USPS, "split_list", split_list)


@pytest.fixture(scope="session")
def sample() -> DigitsDataModule:
    """The embedded 5,000 digits, split. Not to be changed."""
    data = DigitsDataModule("mnist5k")
    data.setup()
    return data


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder with the four original files; the test is skipped where there is none."""
    root = (PROJECT / os.environ.get("DIGITS_DATA", "data")).resolve()
    if not all((Mnist(root).folder / name).exists() for name, _ in MNIST.resources):
        pytest.skip(f"MNIST is not in {root}: set DIGITS_DATA")
    return root


@pytest.fixture(scope="session")
def mnist(mnist_root: Path) -> DigitsDataModule:
    """MNIST itself, split. Not to be changed."""
    data = DigitsDataModule("mnist", root=str(mnist_root), offline_fallback=False)
    data.setup()
    return data


@pytest.fixture(scope="session")
def fashion_root() -> Path:
    """A folder with the four original files of Fashion-MNIST; the test is skipped where there is none."""
    roots = [PROJECT / os.environ.get("DIGITS_DATA", "data"), PROJECT / "data"]
    folders = [*(FashionMnist(root).folder for root in roots), *FashionMnist.elsewhere]
    if given := os.environ.get("DIGITS_FASHION_MNIST"):
        folders.append(Path(given))
    for folder in folders:
        if all((folder / f"{name}.gz").exists() for name in FashionMnist.sums):
            return folder
    pytest.skip("Fashion-MNIST is not here: install Debian's dataset-fashion-mnist or set DIGITS_FASHION_MNIST")


@dataclass
class Outcome:
    """How a command ended: its exit code, what it printed, and its run's folder, if it has one."""

    code: int
    out: str
    err: str
    folder: Path | None

    @property
    def record(self) -> dict:
        return json.loads((self.folder / "metrics.json").read_text())


Command = Callable[..., Outcome]


def mode_of(hydra: Hydra, config_name: str, overrides: list[str]) -> object:
    """Hydra composes the whole config to learn whether it asks for a sweep. In configs/, only a search does."""
    may = any(override.lstrip("+").startswith(("hparams_search", "hydra")) for override in overrides)
    return GET_MODE(hydra, config_name, overrides) if may else None


def call(script: str, *arguments: str) -> int:
    """Runs train.py, eval.py or a digits.<name> in this process, and returns its exit code.

    A gate takes longer than the trainings: none is fitted, unless a test sets DIGITS_TEST_GATES.
    """
    before = logging.root.handlers[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", mode_of)
        if script == "train" and "DIGITS_TEST_GATES" not in os.environ:
            patch.setattr("digits.build.fit_gate", lambda cfg: None)
        patch.setattr(sys, "argv", [f"{script}.py", *arguments])
        try:
            importlib.import_module(script).main()
        except SystemExit as stop:
            return stop.code
        finally:
            logging.root.handlers[:] = before  # Hydra's write into a folder that the next test does not have
    return 0


def run_in_place(script: str, overrides: tuple[str, ...], logs: Path, capture: pytest.CaptureFixture) -> Outcome:
    """As `call`, with logs in a folder and what it printed.

    Figures take longer than the trainings: none are drawn, unless a test asks for them with figures=true.
    """
    capture.readouterr()
    resumes = any(override.startswith("resume") for override in overrides)
    if script in ("train", "eval") and not resumes:
        overrides = ("figures=false", *overrides)
    code = call(script, *overrides, f"log_dir={logs}")
    printed = capture.readouterr()
    folders = sorted((logs / script.removeprefix("digits.")).glob("*/*"), key=lambda folder: folder.stat().st_mtime_ns)
    return Outcome(code, printed.out, printed.err, folders[-1] if folders else None)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture) -> Command:
    """`command("train", "optimizer=sgd")` is `python train.py optimizer=sgd`, with its logs in tmp_path.

    `command("digits.predict", ...)` is `python -m digits.predict ...`.
    """
    return lambda script, *overrides: run_in_place(script, overrides, tmp_path / "logs", capsys)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: three epochs on the embedded sample. Not to be changed."""
    logs = tmp_path_factory.mktemp("trained")
    assert call("train", "data=mnist5k", "trainer=cpu", "trainer.max_epochs=3", f"log_dir={logs}") == 0
    [folder] = (logs / "train" / "runs").iterdir()
    return folder


class Handler(SimpleHTTPRequestHandler):
    """Serves files; `cut` bytes of each are sent, though all are announced, as by a connection that breaks."""

    cut: int | None = None

    def copyfile(self, source, outputfile) -> None:
        with suppress(ConnectionError):  # torchvision asks twice, and first hangs up without listening
            if self.cut is None:
                shutil.copyfileobj(source, outputfile)
            else:
                outputfile.write(source.read(self.cut))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`serve(folder)` makes a server on this machine the only mirror of MNIST and of Fashion-MNIST."""
    servers = []

    def start(folder: Path, cut: int | None = None) -> None:
        handler = partial(type("Cutting", (Handler,), {"cut": cut}), directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
        servers.append(server)
        for dataset in (MNIST, FashionMNIST):
            monkeypatch.setattr(dataset, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setenv("no_proxy", "127.0.0.1")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
