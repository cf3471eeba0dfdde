"""Checkpoints: what they carry besides weights, and how to open one that comes from anywhere.

`hyper_parameters` of a checkpoint is plain data: `model`, `data` and `precision` rebuild the network, its data and
its figures; the rest (optimizer, scheduler, augmentation, seed) is the recipe, for the record.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from digits import networks
from digits.errors import UserError

NETWORKS = f"{networks.__name__}."
DATA_SETTINGS = {"dataset": str, "root": str, "split_seed": int, "mean": float, "std": float}


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
                isinstance(data[name], kind) for name, kind in DATA_SETTINGS.items()
            )
    return False


def restore_network(checkpoint: dict[str, Any], path: str | Path) -> nn.Module:
    """Builds a checkpoint's network and gives it the checkpoint's weights.

    Raises:
        UserError: if it names no network of `digits.networks`, or its weights do not fit.
    """
    settings = dict(checkpoint["hyper_parameters"]["model"])
    target = str(settings.pop("_target_", None))
    # Only this project's own networks: a name out of a file must not choose what code runs.
    network_class = getattr(networks, target.removeprefix(NETWORKS), None) if target.startswith(NETWORKS) else None
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
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
