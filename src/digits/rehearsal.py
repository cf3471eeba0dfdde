"""Network, loss and metrics of a config, tried out before any data is read, and before imports that take seconds."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from digits import parts
from digits.data.datasets import named
from digits.metrics import entries
from digits.targets import check_kind, target_of

OURS = "digits.data.DigitsDataModule"


def announced_shape(data: Mapping[str, Any]) -> dict[str, int] | None:
    """`in_channels`, `num_classes` and `image_size` of the config group `data`; None where only the images tell."""
    return named(data["dataset"])(subset=data.get("subset")).announced if data["_target_"] == OURS else None


def rehearse(cfg: DictConfig, shape: Mapping[str, int] | None = None) -> None:
    """Asks them about two random images, once the shape of the data set's images is known.

    Args:
        cfg: the config.
        shape: as of the images; by default as it is known before they are read.

    Raises:
        UserError: naming the part that does not work.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    _check_kinds({f"{group}.{name}": part for group in ("callbacks", "logger") for name, part in plain[group].items()})
    named_by = {f"metrics.{name}": part for name, part in plain["metrics"].items() if part}
    named_by |= {name: plain[name] for name in ("loss", "optimizer", "scheduler", "augmentation", "mixing", "model")}
    slow = ("torchmetrics.", "kornia.", "torchvision.")  # their import takes seconds
    for key, part in named_by.items():
        if not isinstance(part, dict) or not str(part.get("_target_")).startswith(slow):
            target_of(key, part)
    shape = shape or announced_shape(plain["data"])
    if not shape:
        return
    names = {name: f"{name}._target_={plain[name].get('_target_')}" for name in ("model", "loss")}
    mixed = plain["mixing"]["_target_"] != "digits.augmentation.NoMixing" or bool(plain.get("teacher"))
    with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay as they are
        settings = parts.network_settings(plain["model"], shape, **plain["model_input"])
        loss = instantiate(parts.loss_settings(plain["loss"], None, shape["num_classes"]), _convert_="all")
        network = parts.make_network(parts.without_pretraining(settings), None, plain["freeze"])
        parts.rehearse(network, loss, [], shape, names, mixed)
        parts.rehearse(network, loss, entries(plain["metrics"]), shape, names, mixed)


def _check_kinds(settings: dict[str, Any]) -> None:
    """Of callbacks and loggers of one's own, by key: the others are, and to import their base takes seconds."""
    targets = {key: part.get("_target_") for key, part in settings.items() if isinstance(part, dict) and part}
    if all(str(target).startswith(("digits.", "lightning.")) for target in targets.values()):
        return
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    for key in targets:
        base = Callback if key.startswith("callbacks.") else Logger
        check_kind(key, settings[key], target_of(key, settings[key]), base)
