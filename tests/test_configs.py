"""Every file in configs/ composes, makes the objects that it names and takes a real training step.

The files are found, not listed: a new one is tested by existing. What it needs besides (a GPU, a package, files of a
data set) is in `NEEDS` and in `write_data`.
"""

import importlib.util
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from fakes import write_emnist, write_kmnist, write_qmnist, write_usps
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from digits.command import CONFIGS
from digits.data import DigitsDataModule
from digits.data.settings import DataSettings
from digits.overrides import READ_BY_BUILD

CHOICES = sorted((path.parent.relative_to(CONFIGS).as_posix(), path.stem) for path in CONFIGS.glob("*/*.yaml"))
LAUNCHERS = sorted(path.stem for path in (CONFIGS / "hydra" / "launcher").glob("*.yaml"))
# One step, on real digits, as fast as can be.
STEP = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"]
STEP += ["trainer.limit_test_batches=1", "data.batch_size=8", "data.eval_batch_size=50"]
GPUS = {"gpu": torch.accelerator.is_available, "mps": torch.backends.mps.is_available}
NEEDS = {
    ("logger", "wandb"): lambda: importlib.util.find_spec("wandb"),
    ("logger", "mlflow"): lambda: importlib.util.find_spec("mlflow"),
}
MORE = {
    ("logger", "wandb"): ["logger.wandb.offline=true"],
    ("trainer", "ddp"): ["trainer.accelerator=cpu"],
    ("debug", "overfit"): ["trainer.max_epochs=2", "trainer.overfit_batches=1"],
    ("hparams_search", "optuna"): ["hydra.sweeper.n_trials=1"],
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


@pytest.fixture
def write_data(tmp_path: Path, sample: DigitsDataModule, request: pytest.FixtureRequest):
    """Writes small files in a data set's own format, real digits in them; returns the overrides that find them."""

    def write(choice: str) -> list[str]:
        root = tmp_path / "data"
        images, target = sample.splits.val.images[:, 0].numpy(), sample.splits.val.target.numpy()
        small = {"train": (images, target), "test": (images[::5], target[::5])}
        match choice:
            case "mnist" | "mnist5k":
                return ["data=mnist5k"]  # what mnist falls back to; MNIST itself is in test_full_mnist
            case "fashion_mnist":
                folder = request.getfixturevalue("fashion_root")
                raw = root / "FashionMNIST" / "raw"
                raw.parent.mkdir(parents=True)
                raw.symlink_to(folder)
            case "kmnist":
                write_kmnist(root, small)
            case "emnist":
                write_emnist(root, small)
                return [f"data.root={root}", "data.subset=digits", "data.val_size=100"]
            case "qmnist":
                write_qmnist(root, small)
            case "usps":
                write_usps(root, small)
            case "image_folder":
                for i, (image, label) in enumerate(zip(images, target, strict=True)):
                    path = root / f"digit {label}" / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(np.asarray(image)).save(path)
                return [f"data.root={root}"]
            case _:
                pytest.fail(f"no files for data={choice}: write them")
        return [f"data.root={root}", *([] if choice == "fashion_mnist" else ["data.val_size=0.2"])]

    return write


@pytest.mark.parametrize(("group", "choice"), [choice for choice in CHOICES if choice[0] != "hydra"])
def test_choice_takes_a_training_step(group: str, choice: str, command: Command, write_data) -> None:
    if not NEEDS.get((group, choice), lambda: True)():
        pytest.skip(f"{group}={choice}: what it needs is not here")
    data = write_data(choice) if group == "data" else ["data=mnist5k"]
    outcome = command("train", *STEP, *data, f"{group}={choice}", *MORE.get((group, choice), []))
    if group == "trainer" and choice in GPUS and not GPUS[choice]():
        assert outcome.code == 1
        assert outcome.err.startswith(f"error: trainer.accelerator={choice}: this machine has none")
        return
    assert outcome.code == 0, outcome.err
    folder = outcome.folder
    record = outcome.record if (folder / "metrics.json").exists() else None
    if group == "hparams_search":
        [path] = folder.glob("*/metrics.json")
        record = json.loads(path.read_text())
        folder = path.parent
    assert record["status"] == "completed"
    assert record["epochs"] >= 1
    assert 0 <= record["test/acc"] <= 1
    weights = torch.load(folder / "mnist_cnn_model.pth", weights_only=True)
    assert all(torch.isfinite(tensor.float()).all() for tensor in weights.values())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launcher_composes(launcher: str) -> None:
    pytest.importorskip({"slurm": "submitit", "ray_local": "ray"}[launcher])
    cfg = composed(f"hydra/launcher={launcher}")
    launcher_class = importlib.import_module(cfg.hydra.launcher._target_.rpartition(".")[0])
    keys = cfg.hydra.launcher.keys() - {"_target_"}
    made = getattr(launcher_class, cfg.hydra.launcher._target_.rpartition(".")[2])
    arguments = inspect.signature(made).parameters
    assert any(p.kind is p.VAR_KEYWORD for p in arguments.values()) or keys <= arguments.keys()


def test_defaults_are_the_documented_ones() -> None:
    cfg = composed()
    assert cfg.optimizer._target_ == "torch.optim.Adam"
    assert (cfg.optimizer.lr, cfg.data.batch_size, cfg.trainer.max_epochs) == (0.001, 100, 15)
    assert (cfg.model.dropout, cfg.data.mean, cfg.data.std) == (0.5, 0.1307, 0.3081)


def test_data_root_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS_DATA", "/somewhere")
    assert composed().data.root == "/somewhere"
    monkeypatch.delenv("DIGITS_DATA")
    assert composed().data.root == "data"
    assert composed("data.root=here").data.root == "here"


def test_datas_arguments_are_all_there_are() -> None:
    """The data files' keys are the settings of the data: no key without a reader, none missing."""
    files = [OmegaConf.to_container(OmegaConf.load(path)) for path in (CONFIGS / "data").glob("*.yaml")]
    assert set().union(*files) - {"_target_", "defaults"} == DataSettings.model_fields.keys()


@pytest.mark.parametrize("group", ["optimizer", "scheduler"])
def test_each_choice_has_the_groups_own_keys(group: str) -> None:
    for choice in (choice for own, choice in CHOICES if own == group):
        assert READ_BY_BUILD[group] <= composed(f"{group}={choice}")[group].keys(), choice


@pytest.mark.parametrize("choice", [choice for group, choice in CHOICES if group == "experiment"])
def test_experiments_head_says_what_it_gives(choice: str) -> None:
    head = (CONFIGS / "experiment" / f"{choice}.yaml").read_text().partition("\ndefaults:")[0]
    assert f"python train.py experiment={choice}" in head
    if "# For a GPU" in head and "# Not measured yet" in head:  # there is none where most of this is written
        return
    assert "±" in head, "not measured yet: python -m benchmarks.accuracy"
    assert "CPU" in head or "CUDA" in head


@pytest.mark.parametrize("choice", [choice for group, choice in CHOICES if group == "augmentation"])
def test_augmentation_differs_by_image(choice: str, sample: DigitsDataModule) -> None:
    torch.manual_seed(0)
    augmentation = instantiate(composed(f"augmentation={choice}").augmentation, _convert_="all")
    images = sample.splits.val.images[:1].repeat(32, 1, 1, 1) / 255
    augmented = augmentation(images)
    assert augmented.shape == images.shape
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    different = len({image.numpy().tobytes() for image in augmented})
    if choice == "erasing":  # half of them stay as they are, and a box on the background cannot be seen
        assert different > 8
    elif choice == "shift":  # to one of 25 places
        assert different > 12
    else:
        assert different == (1 if choice == "none" else 32)
