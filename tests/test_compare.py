"""python -m digits.compare: runs in a table, two checkpoints by McNemar's test."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, Command
from omegaconf import OmegaConf
from scipy.stats import binomtest

from digits import compare
from digits.data import DigitsDataModule
from digits.networks import CNN

QUICK = ("data=mnist5k", "trainer.max_epochs=1")


def best(folder: Path) -> str:
    return str(folder / "checkpoints" / "best.ckpt")


def run(capsys: pytest.CaptureFixture, *words: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of the command with these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compare", *map(str, words)])
        code = 0
        try:
            compare.main()
        except SystemExit as stop:
            code = 1 if isinstance(stop.code, str) else stop.code
            print(stop.code, file=sys.stderr)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_runs_from_several_folders_are_one_table(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    accuracies = []
    for seed in (1, 2):
        folder = shutil.copytree(trained, tmp_path / f"run{seed}")
        record = json.loads((folder / "metrics.json").read_text()) | {"seed": seed, "val/acc": 0.9 + seed / 100}
        (folder / "metrics.json").write_text(json.dumps(record))
        config = OmegaConf.load(folder / "config.yaml")
        config.seed = config.data.seed = seed
        OmegaConf.save(config, folder / "config.yaml")
        accuracies.append(record["val/acc"])
    code, out, err = run(capsys, tmp_path / "run1", tmp_path / "run2", "--csv", tmp_path / "table.csv")
    assert (code, err) == (0, "")
    assert "91.50 ± 0.71 %" in out  # of 91 and 92
    assert "seeds" in out
    assert "One setting on mnist5k, trained 2 times" in out
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [float(row["val/acc"]) for row in csv.DictReader(file)] == accuracies


@pytest.fixture
def worse(command: Command) -> Path:
    """A run's folder: the same data, with a few steps of training."""
    return command("train", *QUICK, "trainer.limit_train_batches=12").folder


def right(folder: Path, split) -> torch.Tensor:
    """Whether each test image (N,) is read rightly, by plain torch."""
    network = CNN().eval()
    network.load_state_dict(torch.load(folder / "mnist_cnn_model.pth", weights_only=True))
    with torch.inference_mode():
        return network((split.images / 255 - 0.1307) / 0.3081).argmax(dim=1) == split.target


def test_two_checkpoints(trained: Path, worse: Path, sample: DigitsDataModule, capsys: pytest.CaptureFixture) -> None:
    a, b = (right(folder, sample.splits.test) for folder in (trained, worse))
    counts = {"both right": a & b, "only A right": a & ~b, "only B right": ~a & b, "both wrong": ~a & ~b}
    expected = {name: int(which.sum()) for name, which in counts.items()}
    p_value = binomtest(expected["only A right"], expected["only A right"] + expected["only B right"]).pvalue

    code, out, err = run(capsys, best(trained), best(worse), "--device", "cpu")
    assert (code, err) == (0, "")
    assert {name: int(re.search(rf"{name} +(\d+)", out)[1]) for name in expected} == expected
    assert float(re.search(r"p = (\S+)", out)[1]) == pytest.approx(p_value, rel=0.01)
    for letter, folder in (("A", trained), ("B", worse)):
        record = json.loads((folder / "metrics.json").read_text())
        assert f"{letter}: {record['test/acc']:.2%}  {best(folder)}" in out
    assert p_value < 0.05
    assert "A is better, significantly at 0.05" in out
    assert "B is better, significantly" in run(capsys, best(worse), best(trained))[1]


def test_checkpoint_against_itself_is_no_difference(trained: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, best(trained), trained / "checkpoints" / "best.ckpt")
    assert code == 0
    assert "p = 1\n" in out
    assert "Not significant" in out


def test_each_checkpoint_has_its_own_normalisation(
    command: Command, trained: Path, capsys: pytest.CaptureFixture
) -> None:
    other = command("train", *QUICK, "data.mean=0.5", "data.std=0.5")
    assert other.code == 0, other.err
    code, out, err = run(capsys, best(trained), best(other.folder))
    assert (code, err) == (0, "")
    assert f"B: {other.record['test/acc']:.2%}" in out


def test_other_test_images_do_not_compare(command: Command, trained: Path, capsys: pytest.CaptureFixture) -> None:
    other = command("train", *QUICK, "data.split_seed=1", "trainer.limit_train_batches=2").folder
    code, _, err = run(capsys, best(trained), best(other))
    assert code == 1
    assert "different test images (data.split_seed=0 and 1)" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{trained}", "{best}"], "checkpoints (*.ckpt) given: 1 of 2 paths. Give folders of runs, or exactly two"),
        (["{best}"], "given: 1. Give folders of runs, or exactly two"),
        (["{best}", "{best}", "{best}"], "given: 3. Give folders of runs, or exactly two"),
        (["{best}", "{best}", "--csv", "x.csv"], "--csv: for a table of runs"),
        (["{best}", "nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["nowhere"], "nowhere: no such folder"),
        (["{trained}/checkpoints"], "checkpoints: no training run"),
        (["{trained}", "--csv", "/no/such/folder/x.csv"], "/no/such/folder/x.csv: No such file"),
    ],
)
def test_what_does_not_compare(words: list[str], message: str, trained: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, err = run(capsys, *(word.format(trained=trained, best=best(trained)) for word in words))
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_help_and_tables_do_not_wait_for_torch(trained: Path) -> None:
    program = (
        "import sys\nfrom digits import compare\n"
        f"compare.compare([compare.Path({str(trained)!r})])\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)


def test_into_a_pipe_it_is_plain_text(trained: Path) -> None:
    words = [sys.executable, "-m", "digits.compare", trained]
    ended = subprocess.run(words, cwd=PROJECT, capture_output=True, check=True, env={"PYTHONIOENCODING": "ascii"})
    assert b"\x1b" not in ended.stdout
    assert b"mnist5k" in ended.stdout
