"""docs/extending.md: each part of one's own works as it stands there, from a package outside the project."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROJECT, Command, call
from test_readme import commands_in
from torch import Tensor

from digits.classifier import Classifier

PAGE = (PROJECT / "docs" / "extending.md").read_text()
FILES = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
TRAININGS = [command for command in commands_in(PAGE) if command.startswith("python train.py ")]
SMALL = ("trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=4", "figures=false")
TRUST = "trust=mypackage"


def slow(*trainings: list[str]) -> list[Any]:
    return [pytest.param(training, marks=pytest.mark.slow) for part in trainings for training in part]


class Cut(BaseException):
    """Ends a training as a kill does, but for the process."""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, where the commands start."""
    for name, code in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a command adds the folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def words(training: str) -> list[str]:
    """The overrides of a command of the page, with those that make it short."""
    given = shlex.split(training)[2:]
    keys = {word.partition("=")[0] for word in given}
    return [*given, *(word for word in SMALL if word.partition("=")[0] not in keys)]


def test_examples_are_short_and_outside_the_project() -> None:
    assert len(FILES) == len(re.findall(r"^```(?:python|yaml)$", PAGE, flags=re.MULTILINE))
    for name, code in FILES:
        assert name.startswith(("mypackage/", "myconfigs/"))
        assert len(code.splitlines()) <= 30, name


@pytest.mark.parametrize("training", [*TRAININGS[:1], *TRAININGS[2:6], *slow(TRAININGS[1:2], TRAININGS[6:])])
def test_it_evaluates_to_trainings_own_figures(training: str, command: Command, own: Path) -> None:
    trained = command("train", *words(training))
    assert trained.code == 0, trained.err
    tested = command("eval", f"ckpt_path={trained.folder}", TRUST)
    assert tested.code == 0, tested.err
    figures = {name: value for name, value in trained.record.items() if name.startswith("test/")}
    assert {name: value for name, value in tested.record.items() if name.startswith("test/")} == figures
    assert {"test/loss", "test/acc"} <= figures.keys()
    if "metrics=worst" in training:
        assert "test/worst" in figures
        assert "worst class" in (trained.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert "val/worst" in trained.out
        best = torch.load(trained.folder / "checkpoints" / "best.ckpt", weights_only=True)
        assert {one["monitor"] for one in best["callbacks"].values() if "monitor" in one} == {"val/worst"}
    if "callbacks.largest" in training:
        assert trained.record["largest_weight"] > 0
        assert "train/loss" in (trained.folder / "figures.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
def test_it_exports_and_resumes_bit_for_bit(
    training: str, command: Command, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_step, steps = Classifier.training_step, 0

    def cut(self: Classifier, batch: Any, batch_idx: int) -> Tensor:
        nonlocal steps
        steps += 1
        if steps > (2 if "max_epochs" in training else 6):  # during the last epoch
            raise Cut
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", cut)
        with pytest.raises(Cut):
            command("train", *words(training), "checkpoint_every_seconds=0")
    resumed = command("train", "resume=last", TRUST)
    assert resumed.code == 0, resumed.err
    whole = command("train", *words(training))
    ours, theirs = (
        torch.load(one.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for one in (resumed, whole)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resumed.record["test/acc"] == whole.record["test/acc"]

    exported = command("digits.export", f"ckpt_path={whole.folder}", f"output={own / 'm.onnx'}", TRUST)
    assert exported.code == 0, exported.err
    assert "other answers: 0 " in exported.out


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("eval", []),
        ("digits.export", []),
        ("digits.predict", ["images=seven.png"]),
        ("digits.explain", ["images=seven.png"]),
        ("train", ["resume=last", "trainer.max_epochs=3"]),
    ],
)
def test_untrusted_code_is_refused_in_one_line(script: str, given: list[str], tiny: Path, capsys: Any) -> None:
    """And nothing of it runs: the package is changed into one that would leave a trace."""
    (tiny / "mypackage" / "nets.py").write_text("open('ran', 'w').close()\n")
    assert call(script, *given, f"log_dir={tiny / 'logs'}") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "model._target_=mypackage.nets.Tiny: code that is not of digits, torch, torchvision, and so is not run."
        " If you trust it: trust=mypackage"
    )
    assert not (tiny / "ran").exists()


@pytest.fixture
def tiny(own: Path) -> Path:
    """The folder of `own` with a run of its network, of which nothing is loaded any more."""
    (own / "seven.png").symlink_to(PROJECT / "docs" / "images" / "seven.png")
    assert call("train", *words(TRAININGS[0]), f"log_dir={own / 'logs'}") == 0
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]
    return own


@pytest.mark.slow
@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="the template is a clone")
def test_template_trains_under_its_new_name(tmp_path: Path) -> None:
    """As somebody would do it in a fresh clone, but for the environment, in which it is not installed."""
    [rename] = [
        block.replace("\n   ", "\n") for block in re.findall(r"^   ```sh\n(.*?)^   ```$", PAGE, re.DOTALL | re.M)
    ]
    clone, site = tmp_path / "clone", tmp_path / "site"
    for name in subprocess.check_output(["git", "ls-files"], cwd=PROJECT, text=True).splitlines():
        if (PROJECT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, clone / name)
    for command in ("git init -q", "git add .", rename):
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=clone, check=True)
    (site / "myproject-0.1.0.dist-info").mkdir(parents=True)
    (site / "myproject-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: myproject\nVersion: 0.1.0\n"
    )
    (site / "digits.py").write_text("raise ImportError('the old name')\n")
    environment = os.environ | {"PYTHONPATH": f"{clone / 'src'}{os.pathsep}{site}"}
    for command in (
        "train.py data=mnist5k model=fast trainer.max_epochs=1 figures=false rejection.passes=1 rejection.images=500",
        "eval.py",
        "-m myproject.predict images=docs/images/seven.png",
        "-m myproject.export",
    ):
        subprocess.run([sys.executable, *command.split()], cwd=clone, env=environment, check=True, capture_output=True)
    [run] = (clone / "logs" / "train" / "runs").iterdir()
    assert "digits." not in (run / "config.yaml").read_text()
