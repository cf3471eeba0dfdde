"""Checkpoints: plain data that rebuilds the network, and nothing that a hostile file could run."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from digits.checkpoints import load_checkpoint, restore_network
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.networks import CNN

PLAIN = (str, int, float, bool, type(None))


def only_plain(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str and only_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(only_plain, value))
    return type(value) in PLAIN


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_carries_only_plain_settings(trained: Path, name: str) -> None:
    checkpoint = torch.load(trained / "checkpoints" / name, weights_only=True)
    settings = checkpoint["hyper_parameters"]
    assert only_plain(settings)
    root = settings["data"].pop("root")
    assert Path(root).is_absolute()
    assert settings["data"] == {"dataset": "mnist5k", "split_seed": 0, "mean": 0.1307, "std": 0.3081}
    assert settings["model"]["channels"] == [32, 64]
    assert settings["optimizer"]["lr"] == 0.001
    assert settings["seed"] == 1


def test_best_is_the_epoch_with_the_highest_val_acc(trained: Path, sample: DigitsDataModule) -> None:
    lines = (trained / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True)) for line in lines[1:]]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    checkpoint = load_checkpoint(trained / "checkpoints" / "best.ckpt")
    network = restore_network(checkpoint, "best.ckpt").eval()
    with torch.inference_mode():
        logits = network(sample.normalise(sample.splits.val.images / 255))
    accuracy = (logits.argmax(dim=1) == sample.splits.val.target).float().mean().item()
    assert accuracy == pytest.approx(max(row["val/acc"] for row in rows))
    assert rows[checkpoint["epoch"]]["val/acc"] == pytest.approx(accuracy)
    assert load_checkpoint(trained / "checkpoints" / "last.ckpt")["epoch"] == 2


def test_state_dict_loads_in_three_lines_without_lightning(trained: Path, sample: DigitsDataModule) -> None:
    code = f"""
import sys, torch
from digits.networks import CNN
network = CNN()
network.load_state_dict(torch.load({str(trained / "mnist_cnn_model.pth")!r}, weights_only=True))
network.eval()
assert "lightning" not in sys.modules
torch.manual_seed(0)
print(network(torch.randn(1, 1, 28, 28)).tolist())
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    network = restore_network(load_checkpoint(trained / "checkpoints" / "best.ckpt"), "").eval()
    torch.manual_seed(0)
    torch.testing.assert_close(torch.tensor(json.loads(answer.stdout)), network(torch.randn(1, 1, 28, 28)))


class Hostile:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("hostile-code-ran"),))


@pytest.fixture
def best(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path))


def test_code_in_a_checkpoint_is_not_run(best: Path) -> None:
    checkpoint = torch.load(best, weights_only=True)
    torch.save(checkpoint | {"surprise": Hostile()}, best)
    with pytest.raises(UserError, match="would run code"):
        load_checkpoint(best)
    best.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match="would run code"):
        load_checkpoint(best)
    assert not Path("hostile-code-ran").exists()
    pickle.loads(best.read_bytes())
    assert Path("hostile-code-ran").exists(), "the file was no threat: the test proves nothing"


@pytest.mark.parametrize(
    "target", ["os.system", "torch.nn.Linear", "digits.networks.nn", "digits.data.DigitsDataModule"]
)
def test_names_in_a_checkpoint_do_not_choose_what_runs(best: Path, target: str) -> None:
    checkpoint = load_checkpoint(best)
    checkpoint["hyper_parameters"]["model"]["_target_"] = target
    with pytest.raises(UserError, match=target):
        restore_network(checkpoint, best)


@pytest.mark.parametrize(
    "data",
    [
        {"augmentation": {"_target_": "pathlib.Path.touch", "_args_": ["hostile-code-ran"]}},
        {"mean": "0.1"},
        {"root": {"_target_": "pathlib.Path"}},
    ],
)
def test_data_settings_of_a_checkpoint_are_plain_and_known(best: Path, data: dict) -> None:
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["hyper_parameters"]["data"] |= data
    torch.save(checkpoint, best)
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        load_checkpoint(best)


@pytest.mark.parametrize("size", [0, 10, 1000, -1000])
def test_truncated_checkpoint_is_refused(best: Path, size: int) -> None:
    best.write_bytes(best.read_bytes()[:size])
    with pytest.raises(UserError, match=str(best)):
        load_checkpoint(best)


def test_files_that_are_no_checkpoints(trained: Path, tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nowhere.ckpt", "no such file"),
        (tmp_path, "is a folder"),
        (trained / "config.yaml", "no checkpoint"),
        (trained / "mnist_cnn_model.pth", "not a checkpoint of this project"),
    ):
        with pytest.raises(UserError, match=message):
            load_checkpoint(path)


def test_weights_that_do_not_fit(best: Path) -> None:
    checkpoint = load_checkpoint(best)
    checkpoint["hyper_parameters"]["model"]["hidden"] = 64
    with pytest.raises(UserError, match="do not fit"):
        restore_network(checkpoint, best)
    checkpoint["hyper_parameters"]["model"] = {"_target_": "digits.networks.CNN", "depth": 3}
    with pytest.raises(UserError, match=r"do not fit.*depth"):
        restore_network(checkpoint, best)


def test_every_knob_comes_back(tmp_path: Path) -> None:
    settings = {"_target_": "digits.networks.CNN", "channels": [4, 8, 16], "batch_norm": True, "dropout": 0.1}
    network = CNN(channels=[4, 8, 16], batch_norm=True, dropout=0.1)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    data = DigitsDataModule("mnist5k").settings
    checkpoint = {"hyper_parameters": {"model": settings, "data": data, "precision": "32-true"}, "state_dict": weights}
    torch.save(checkpoint, tmp_path / "c.ckpt")
    restored = restore_network(load_checkpoint(tmp_path / "c.ckpt"), "c.ckpt")
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(restored.eval()(images), network.eval()(images))
