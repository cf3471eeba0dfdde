"""Checkpoints: plain data that rebuilds the network, and nothing that a hostile file could run."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from digits.checkpoints import FORMAT, Checkpoint
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.networks import CNN
from digits.runs.checkpointing import AtomicCheckpoints

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
    assert len(settings["data"].pop("fingerprint")) == 32
    assert settings["data"] == {
        "dataset": "mnist5k",
        "subset": None,
        "split_seed": 0,
        "val_size": 500,
        "test_size": 500,
        "folds": None,
        "fold": 0,
        "image_size": 28,
        "channels": 1,
        "mean": [0.1307],
        "std": [0.3081],
        "class_names": list("0123456789"),
        "module": None,
        "fit": 20 / 28,
        "centre": "mass",
        "light_on_dark": True,
        "seen": None,
    }
    assert settings["model"]["channels"] == [32, 64]
    assert settings["optimizer"]["lr"] == 0.001
    assert settings["seed"] == 1


def test_best_is_the_epoch_with_the_highest_val_acc(trained: Path, sample: DigitsDataModule) -> None:
    lines = (trained / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True)) for line in lines[1:]]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    checkpoint = Checkpoint.open(trained / "checkpoints" / "best.ckpt")
    network = checkpoint.network().eval()
    with torch.inference_mode():
        logits = network(sample.normalise(sample.splits.val.images / 255))
    accuracy = (logits.argmax(dim=1) == sample.splits.val.target).float().mean().item()
    assert accuracy == pytest.approx(max(row["val/acc"] for row in rows))
    assert rows[checkpoint.content["epoch"]]["val/acc"] == pytest.approx(accuracy)
    assert (
        Checkpoint.open(trained / "checkpoints" / "last.ckpt").content["epoch"] == 3
    )  # from the end of training: of three


@pytest.mark.slow
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
    network = Checkpoint.open(trained / "checkpoints" / "best.ckpt").network().eval()
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
    with pytest.raises(UserError, match=r"best\.ckpt: refused: it could run code \(__builtin__\.getattr\)"):
        Checkpoint.open(best)
    best.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match=r"best\.ckpt: refused: a bare pickle, which could run code"):
        Checkpoint.open(best)
    assert not Path("hostile-code-ran").exists()
    pickle.loads(best.read_bytes())
    assert Path("hostile-code-ran").exists(), "the file was no threat: the test proves nothing"


@pytest.mark.parametrize(
    "target", ["os.system", "torch.nn.Linear", "digits.networks.nn", "digits.data.DigitsDataModule"]
)
def test_names_in_a_checkpoint_do_not_choose_what_runs(best: Path, target: str) -> None:
    checkpoint = Checkpoint.open(best)
    checkpoint.settings["model"]["_target_"] = target
    with pytest.raises(UserError, match=target):
        checkpoint.network()


@pytest.mark.parametrize(
    "data",
    [
        {"augmentation": {"_target_": "pathlib.Path.touch", "_args_": ["hostile-code-ran"]}},
        {"mean": "0.1"},
        {"mean": ["0.1"]},
        {"mean": 0.1},
        {"fold": True},
        {"folds": [5]},
        {"class_names": [{"_target_": "pathlib.Path"}]},
        {"root": {"_target_": "pathlib.Path"}},
    ],
)
def test_data_settings_of_a_checkpoint_are_plain_and_known(best: Path, data: dict) -> None:
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["hyper_parameters"]["data"] |= data
    torch.save(checkpoint, best)
    with pytest.raises(UserError, match="without the settings that this one writes"):
        Checkpoint.open(best)


def cut(content: bytes) -> bytes:
    return content[:-1000]


def flipped(content: bytes) -> bytes:
    """One bit of one weight is another: torch alone would read it without a word."""
    weights = torch.load(io.BytesIO(content), weights_only=True)["state_dict"]
    place = content.index(max(weights.values(), key=torch.numel).numpy().tobytes())
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def packed(content: bytes) -> bytes:
    """A small file that would unpack to fill the memory."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as ours, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ours.namelist():
            archive.writestr(name, ours.read(name) if "data/" not in name else bytes(10**7))
    return bomb.getvalue()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"", "empty"),
        (lambda content: content[:1], "no checkpoint, but a file of another kind"),
        (lambda content: content[:10], "truncated: after 10 bytes"),
        (lambda content: content[:1000], "truncated: after 1,000 bytes"),
        (cut, r"truncated: after [\d,]+ bytes its end is missing"),
        (flipped, r"damaged: archive/data/\d+ in it has not the content that it was written with"),
        (packed, "no checkpoint, but an archive of another kind"),
        (lambda content: b"<!DOCTYPE html>" + content, "no checkpoint, but a file of another kind"),
    ],
)
def test_a_damaged_checkpoint_says_how(best: Path, spoil: Callable[[bytes], bytes], message: str) -> None:
    best.write_bytes(spoil(best.read_bytes()))
    with pytest.raises(UserError, match=rf"{best}: {message}"):
        Checkpoint.open(best)


def test_torch_alone_reads_changed_weights(best: Path) -> None:
    before = torch.load(best, weights_only=True)["state_dict"]
    best.write_bytes(flipped(best.read_bytes()))
    after = torch.load(best, weights_only=True)["state_dict"]
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (FORMAT - 1, rf"of an older version of this project \(format {FORMAT - 1}; this one reads {FORMAT}\)"),
        (FORMAT + 1, rf"of a newer version of this project \(format {FORMAT + 1}; this one reads {FORMAT}\)"),
        (None, "of an older version of this project .without a format"),
        ("1", "of an older version of this project .without a format"),
        ([1], "of an older version of this project .without a format"),
    ],
)
def test_another_versions_checkpoint_is_refused(best: Path, written: object, message: str) -> None:
    checkpoint = Checkpoint.open(best).content
    assert checkpoint["digits_format"] == FORMAT
    torch.save(checkpoint | {"digits_format": written}, best)
    with pytest.raises(UserError, match=message):
        Checkpoint.open(best)


def test_what_could_fill_the_memory_is_not_called(best: Path) -> None:
    """torch's own list lets `bytearray` through: of some hundred bytes it would make gigabytes."""
    checkpoint = torch.load(best, weights_only=True)
    torch.save(checkpoint | {"surprise": bytearray(5)}, best)
    torch.load(best, weights_only=True)
    with pytest.raises(UserError, match=r"best\.ckpt: refused: it could run code \(.*bytearray\)"):
        Checkpoint.open(best)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/DATA.PKL"])
def test_an_archive_hides_no_second_pickle(best: Path, name: str) -> None:
    """Which of two a reader takes is up to the reader."""
    content = best.read_bytes()
    with io.BytesIO() as file:
        torch.save(bytearray(5), file)
        with zipfile.ZipFile(file) as other:
            [hostile] = [other.read(part) for part in other.namelist() if part.endswith("/data.pkl")]
    with zipfile.ZipFile(io.BytesIO(content)) as ours, zipfile.ZipFile(best, "w") as archive:
        archive.writestr(name, hostile)
        for part in ours.namelist():
            archive.writestr(part, ours.read(part))
    with pytest.raises(UserError, match="an archive of another kind"):
        Checkpoint.open(best)


def test_sizes_of_a_checkpoint_take_no_memory(best: Path) -> None:
    checkpoint = Checkpoint.open(best)
    checkpoint.settings["model"]["hidden"] = 10**9  # 12 TB of weights
    with pytest.raises(UserError, match="another architecture"):
        checkpoint.network()
    checkpoint.settings["model"] = {"_target_": "digits.networks.ResNet18", "blocks": [10**9] * 4}
    with pytest.raises(UserError, match="less than or equal to 1000"):
        checkpoint.network()


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        *(("data", {"class_names": names}) for names in ([], ["a", "b"])),
        *(("data", {"mean": mean}) for mean in ([0.1, 0.2], [], [float("nan")])),
        *(("data", {"std": std}) for std in ([0.0], [-1.0], [0.3, 0.3], [float("inf")])),
        *(("data", {"channels": channels}) for channels in (0, 3, 7)),
        *(("data", {"image_size": size}) for size in (0, -1, 3000)),
        *(
            ("weights", {"network.head.1.weight": value})
            for value in (
                *(5, torch.ones(2, 2), torch.ones(128, 3136).to_sparse(), torch.ones(128, 3136, dtype=torch.complex64)),
                *(torch.full((128, 3136), torch.nan), torch.ones(1).expand(128, 3136), None),
            )
        ),
        ("weights", {1: torch.ones(1)}),
    ],
)
def test_content_that_train_py_does_not_write_is_refused(best: Path, part: str, changes: dict) -> None:
    checkpoint = torch.load(best, weights_only=True)
    (checkpoint["state_dict"] if part == "weights" else checkpoint["hyper_parameters"]["data"]).update(changes)
    torch.save(checkpoint, best)
    with pytest.raises(UserError, match=f"^{best}: "):
        Checkpoint.open(best).network()


class Foreign(L.LightningModule):
    """What another project would train."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.layer(batch[0]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_another_projects_checkpoint_is_refused(tmp_path: Path) -> None:
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False, **silent)
    trainer.fit(Foreign(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 2))))
    trainer.save_checkpoint(tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match=r"foreign\.ckpt: another project's checkpoint"):
        Checkpoint.open(tmp_path / "foreign.ckpt")


def test_files_that_are_no_checkpoints(trained: Path, tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.ckpt")
    for path, message in (
        (tmp_path / "nowhere.ckpt", "no such file"),
        (tmp_path, "a folder, but no run's with a checkpoint"),
        (trained / "config.yaml", "no checkpoint, but a file of another kind"),
        (trained / "mnist_cnn_model.pth", "weights alone, no checkpoint"),
        (tmp_path / "list.ckpt", "no checkpoint. Give"),
    ):
        with pytest.raises(UserError, match=f"{path}: {message}"):
            Checkpoint.open(path)


def test_weights_of_another_architecture(best: Path) -> None:
    checkpoint = Checkpoint.open(best)
    checkpoint.settings["model"]["hidden"] = 64
    with pytest.raises(UserError, match=r"another architecture.*digits\.networks\.CNN.: .*\[64, 3136\]"):
        checkpoint.network()
    checkpoint.settings["model"] = {"_target_": "digits.networks.CNN", "depth": 3}
    with pytest.raises(UserError, match=r"another architecture.*depth"):
        checkpoint.network()


def test_every_knob_comes_back(tmp_path: Path, sample: DigitsDataModule) -> None:
    settings = {"_target_": "digits.networks.CNN", "channels": [4, 8, 16], "batch_norm": True, "dropout": 0.1}
    network = CNN(channels=[4, 8, 16], batch_norm=True, dropout=0.1)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    data = sample.settings
    parts = {"model": settings, "loss": {"_target_": "digits.losses.CrossEntropy"}, "metrics": {}, "data": data}
    checkpoint = {"hyper_parameters": parts | {"precision": "32-true"}, "state_dict": weights}
    AtomicCheckpoints(tmp_path).save_checkpoint(checkpoint | {"callbacks": {}}, tmp_path / "c.ckpt")
    restored = Checkpoint.open(tmp_path / "c.ckpt").network()
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(restored.eval()(images), network.eval()(images))
