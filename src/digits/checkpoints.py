"""Checkpoints: what they carry besides weights, and how to open one that comes from anywhere.

`hyper_parameters` of a checkpoint is plain data: `model`, `data` and `precision` rebuild the network, its data and
its figures; the rest (optimizer, scheduler, augmentation, seed) is the recipe, for the record.
"""

import io
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import nn

from digits import networks
from digits.data import WITHOUT_TEST_IMAGES, DigitsDataModule
from digits.errors import UserError
from digits.files import whole

NETWORKS = f"{networks.__name__}."
DATA_SETTINGS = {
    "dataset": str,
    "root": str,
    "subset": str | None,
    "split_seed": int,
    "val_size": int,
    "test_size": int | float | None,
    "folds": int | None,
    "fold": int,
    "image_size": int,
    "channels": int,
    "mean": list[float],
    "std": list[float],
    "class_names": list[str],
}
SPLIT_SETTINGS = ("subset", "val_size", "test_size", "folds", "fold")  # of one data set: another has its own
MNIST_TRAINING_IMAGES = ("mnist", "qmnist")  # who trained on these has seen mnist5k


def save(content: Any, path: Path) -> None:
    """`torch.save`, whole or not at all."""
    buffer = io.BytesIO()  # torch's own writer says of a full disk only that it failed
    torch.save(content, buffer)
    with whole(path) as part:
        part.write_bytes(buffer.getbuffer())


class WholeCheckpoints(CheckpointIO):
    """Lightning's checkpoints through `whole`: its own pass through another disk's temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> Any:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Opens a checkpoint of this project on the CPU; nothing in the file is run (`weights_only`).

    Raises:
        UserError: if there is no such file, or it is not a checkpoint of this project.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(
            f"ckpt_path={path}: {what}. A run keeps its checkpoints in logs/train/runs/<run>/checkpoints/best.ckpt"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can break the unpickler anywhere
        raise UserError(
            f"ckpt_path={path}: no checkpoint, a damaged one, or one that would run code when opened"
            f" ({type(error).__name__}). Give a best.ckpt or last.ckpt that train.py wrote"
        ) from error
    if not _has_settings(checkpoint):
        raise UserError(
            f"ckpt_path={path}: not a checkpoint of this project (it lacks the settings of network and data)."
            " Give a best.ckpt or last.ckpt that train.py wrote"
        )
    return checkpoint


def _has_settings(checkpoint: Any) -> bool:
    """Whether it has what train.py puts in, in the types that it puts in: a file can come from anywhere."""
    match checkpoint:
        case {"state_dict": dict(), "hyper_parameters": {"model": dict(), "data": dict(data), "precision": str()}}:
            return data.keys() == DATA_SETTINGS.keys() and all(
                _fits(data[name], kind) for name, kind in DATA_SETTINGS.items()
            )
    return False


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is exactly of a type like `int`, `int | None` or `list[int]`."""
    if get_origin(kind) is list:
        return type(value) is list and all(type(item) in get_args(kind) for item in value)
    return type(value) in (get_args(kind) or (kind,))


def restore_network(checkpoint: dict[str, Any], path: str | Path) -> nn.Module:
    """Builds a checkpoint's network and gives it the checkpoint's weights.

    Raises:
        UserError: if it names no network of `digits.networks`, or its weights do not fit.
    """
    settings = dict(checkpoint["hyper_parameters"]["model"])
    target = str(settings.pop("_target_", None))
    # Only this project's own networks: a name out of a file must not choose what code runs.
    network_class = getattr(networks, target.removeprefix(NETWORKS), None) if target.startswith(NETWORKS) else None
    ours = getattr(network_class, "__module__", None) == networks.__name__
    if not (ours and isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise UserError(f"ckpt_path={path}: there is no network {target} in {networks.__name__}")
    prefix = "network."
    weights = {
        name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)
    }
    try:
        network = network_class(**settings)
        network.load_state_dict(weights, assign=True)  # in the type that they were saved in
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"ckpt_path={path}: its weights and settings do not fit {target}: {reason}") from error
    return network


def restore_data(checkpoint: dict[str, Any], **overrides: Any) -> DigitsDataModule:
    """Loads the data that a checkpoint was trained on, in the same splits and form, or what the overrides ask for.

    Without an override of `root`, it is DIGITS_DATA, else where training found the data, else `data`; for an
    `image_folder`, which DIGITS_DATA does not hold, where training found it.

    Args:
        checkpoint: as `load_checkpoint` gives it.
        overrides: arguments of `DigitsDataModule`; None counts as not given.

    Raises:
        UserError: if the data cannot be had, the checkpoint's network has seen it all in training, or classes or
            form of the images are not those of the network.
    """
    trained = checkpoint["hyper_parameters"]["data"]
    settings = {name: value for name, value in trained.items() if name != "class_names"}
    asked = {name: value for name, value in overrides.items() if value is not None}
    dataset = asked.get("dataset", trained["dataset"])
    if dataset != trained["dataset"]:
        settings = {name: value for name, value in settings.items() if name not in SPLIT_SETTINGS}
    settings["root"] = _root(trained, dataset)
    data = DigitsDataModule(**{"offline_fallback": False, **settings, **asked})
    data.prepare_data()
    data.setup()

    if data.dataset == "mnist5k" and trained["dataset"] in MNIST_TRAINING_IMAGES:
        raise UserError(
            f"data.dataset=mnist5k: no test set for this checkpoint, which was trained on {trained['dataset']}:"
            f" all of mnist5k are training images of {trained['dataset']}"
        )
    if list(data.class_names) != trained["class_names"]:
        have, want = (textwrap.shorten(", ".join(names), 100) for names in (data.class_names, trained["class_names"]))
        raise UserError(
            f"data.dataset={data.dataset}: its classes ({have}) are not those that the checkpoint knows ({want})"
        )
    form, known = (data.image_size, data.in_channels), (trained["image_size"], trained["channels"])
    if form != known:
        have, want = (f"{size}×{size} pixels, {channels} channel(s)" for size, channels in (form, known))
        raise UserError(f"data.dataset={data.dataset}: its images ({have}) are not as the checkpoint's ({want})")
    return data


def check_one_test_set(checkpoints: Mapping[str, dict[str, Any]]) -> None:
    """Refuses checkpoints, by their paths, that cannot be tested on the same images in the same form.

    Raises:
        UserError: naming two of them and the setting in which they differ.
    """
    (first, reference), *others = ((path, dict(c["hyper_parameters"]["data"])) for path, c in checkpoints.items())
    official = reference["dataset"] not in WITHOUT_TEST_IMAGES and not reference["folds"]
    free = {"val_size", "root", *(["split_seed"] if official else [])}  # these leave the test images as they are
    if reference["dataset"] == "image_folder":
        free.remove("root")
    for path, settings in others:
        for name in DATA_SETTINGS:
            if name not in free and settings[name] != reference[name]:
                raise UserError(
                    f"ckpt_path: {first} and {path} have no test set in common: data.{name} is {reference[name]} for"
                    f" the one and {settings[name]} for the other"
                )


def _root(trained: dict[str, Any], dataset: str) -> str | None:
    """Where to look for the data, if nothing else is said."""
    if dataset == "image_folder":
        return trained["root"] if trained["dataset"] == dataset else None
    if root := os.environ.get("DIGITS_DATA"):
        return root
    here = trained["dataset"] != "image_folder" and Path(trained["root"]).is_dir()
    return trained["root"] if here else "data"  # a checkpoint may come from another machine
