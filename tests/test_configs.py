"""Every file in configs/ composes and makes the object that it names; a new file is tested by existing."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from digits.cli import CONFIGS
from digits.data import DigitsDataModule

CHOICES = sorted(
    (path.parent.name, path.stem) for path in CONFIGS.glob("*/*.yaml") if path.parent.name not in ("hydra",)
)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_choice_makes_what_it_names(group: str, choice: str, tmp_path: Path) -> None:
    cfg = composed(f"{group}={choice}", f"hydra.runtime.output_dir={tmp_path}")
    network = instantiate(cfg.model, _convert_="all")
    optimizer = instantiate(cfg.optimizer, _convert_="all")(network.parameters())
    images = torch.rand(4, 1, 28, 28)
    match group:
        case "model":
            assert network(images).shape == (4, 10)
        case "optimizer":
            before = [parameter.detach().clone() for parameter in network.parameters()]
            network(images).sum().backward()
            optimizer.step()
            assert not all(map(torch.equal, before, network.parameters()))
        case "scheduler":
            scheduler = instantiate(cfg.scheduler, _convert_="all")(optimizer)
            optimizer.step()
            scheduler.step()
            assert 0 < scheduler.get_last_lr()[0] <= cfg.optimizer.lr
        case "augmentation":
            assert instantiate(cfg.augmentation, _convert_="all")(images).shape == images.shape
        case "data":
            assert isinstance(instantiate(cfg.data), DigitsDataModule)
        case "trainer":
            if choice != "gpu" or torch.accelerator.is_available():
                assert instantiate(cfg.trainer, precision="32-true").max_epochs == 15
        case "callbacks" | "logger":
            assert all(instantiate(part) for part in cfg[group].values())
        case _:
            pytest.fail(f"no test for the group {group}: write one")


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


def test_a_configs_arguments_are_all_there_are() -> None:
    """The data module's keys are its constructor's arguments: no key without a reader, none missing."""
    import inspect

    arguments = inspect.signature(DigitsDataModule).parameters.keys() - {"augmentation"}
    assert OmegaConf.to_container(composed().data).keys() - {"_target_"} == arguments


def test_step_schedule_by_hand() -> None:
    cfg = composed("scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.1", "optimizer=sgd", "optimizer.lr=1")
    optimizer = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    scheduler = instantiate(cfg.scheduler)(optimizer)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])
