"""Checkpoints: what they carry besides weights, and how to open one that comes from anywhere.

`hyper_parameters` of a checkpoint is plain data: `model`, `data` and `precision` rebuild the network, its data and
its figures; the rest (optimizer, scheduler, augmentation, seed) is the recipe, for the record. `digits_format` says
which version of this project can read it.
"""

import inspect
import io
import math
import os
import pickletools
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor, nn

from digits import networks
from digits.atomic import atomic_write
from digits.data.module import WITHOUT_TEST_IMAGES, DigitsDataModule
from digits.errors import Diverged, UserError

FORMAT = 1  # raise it with each change that has older checkpoints no longer mean what they say
# What the pickles in the archives call that `save` writes. torch lets more through, with which a small file can fill
# the memory: bytearray is one.
CALLED = {
    *("collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
} | {
    f"torch.{kind}Storage"
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
WANTED = "Give a best.ckpt or last.ckpt that train.py wrote"
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
    with atomic_write(path) as part:
        part.write_bytes(buffer.getbuffer())


def load(path: str | Path) -> Any:
    """`torch.load` on the CPU of what `save` wrote. Nothing in the file is run, and no changed bit gets through.

    torch alone would read weights with changed bits without a word: it does not look at its archive's checksums.

    Raises:
        UserError: saying what is wrong with the file.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    if problem := _damage(content):
        raise UserError(f"{path}: {problem}")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what is in it can break the unpickler anywhere
        raise UserError(f"{path}: no checkpoint: its content cannot be read ({type(error).__name__})") from error


def _damage(content: bytes) -> str | None:
    """What is wrong with the archive that torch writes; None if nothing is."""
    if not content:
        return "empty: the file has no content"
    if content[0] == 0x80:  # how a pickle starts
        return "refused: a bare pickle, which could run code when it is opened, and no checkpoint"
    if not content.startswith(b"PK"):
        return f"no checkpoint, but a file of another kind. {WANTED}"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name.lower() for name in archive.namelist()]  # torch's reader takes small letters for capitals
            packed = any(
                part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()
            )  # could fill the memory
            if packed or len(set(names)) < len(names):  # of two with one name, torch might read the other
                return f"no checkpoint, but an archive of another kind. {WANTED}"
            if broken := archive.testzip():
                return f"damaged: {broken} in it has not the content that it was written with. Take another copy of it"
            for part in (name for name in archive.namelist() if name.lower().endswith(".pkl")):
                called = {
                    str(name).replace(" ", ".")
                    for operation, name, _ in pickletools.genops(archive.read(part))
                    if operation.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
                }
                if foreign := called - CALLED:
                    return f"refused: it could run code ({min(foreign)}). A checkpoint of train.py is plain data"
    except Exception as error:  # damage can break the reader anywhere
        if not zipfile.is_zipfile(io.BytesIO(content)):
            return f"truncated: after {len(content):,} bytes its end is missing. Take another copy of it"
        return f"damaged ({' '.join(str(error).split()) or type(error).__name__}). Take another copy of it"
    return None


class WholeCheckpoints(CheckpointIO):
    """Lightning's checkpoints through `whole`: its own pass through another disk's temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if Path(path).name.startswith("hpc_ckpt_"):
            # Lightning's, at the signal of a preemption and so amid a step; it would train, and even test, from it on.
            # SLURM's requeuing sends SIGTERM next, at which last.ckpt is saved.
            return
        if not all(value.isfinite().all() for value in checkpoint["state_dict"].values() if value.is_floating_point()):
            # Not over the last good one. The losses show it too, but later where the last step of all has done it.
            rates = [group["lr"] for state in checkpoint["optimizer_states"] for group in state["param_groups"]]
            raise Diverged("a weight is not finite", checkpoint["global_step"], rates)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save(checkpoint | {"digits_format": FORMAT}, Path(path))

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> Any:
        return load(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Opens a checkpoint of this project on the CPU; nothing in the file is run.

    Raises:
        UserError: if there is no such file, or it is not a checkpoint that this version of the project wrote.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}. A run keeps its checkpoints in logs/train/runs/<run>/checkpoints/best.ckpt")
    checkpoint = load(path)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        values = list(checkpoint.values()) if isinstance(checkpoint, dict) else []
        what = "weights alone, no checkpoint" if values and all(map(torch.is_tensor, values)) else "no checkpoint"
        raise UserError(f"{path}: {what}. {WANTED}")
    written = checkpoint.get("digits_format")
    number: int | None = written if type(written) is int else None
    if number in (None, FORMAT) and not _has_settings(checkpoint):  # another version may have others
        raise UserError(f"{path}: another project's checkpoint, without the settings that this one writes. {WANTED}")
    if number != FORMAT:
        age = "a newer" if number is not None and number > FORMAT else "an older"
        found = "without a format" if number is None else f"format {number}"
        raise UserError(
            f"{path}: of {age} version of this project ({found}; this one reads {FORMAT})."
            " Use the version that wrote it, or train again"
        )
    return checkpoint


def _has_settings(checkpoint: Any) -> bool:
    """Whether it has what train.py puts in, of the types and in the ranges of that: a file can come from anywhere."""
    match checkpoint:
        case {
            "state_dict": dict(weights),
            "hyper_parameters": {"model": dict(), "data": dict(data), "precision": str()},
        } if data.keys() == DATA_SETTINGS.keys() and all(
            _fits(data[name], kind) for name, kind in DATA_SETTINGS.items()
        ):
            return (
                data["channels"] in (1, 3)
                and data["image_size"] > 0
                and bool(data["class_names"])
                and all(len(data[name]) in (1, data["channels"]) for name in ("mean", "std"))
                and all(map(math.isfinite, data["mean"]))
                and all(0 < value < math.inf for value in data["std"])
                and all(isinstance(name, str) and _is_plain(value) for name, value in weights.items())
            )
    return False


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of finite numbers, dense and with all of them in the file."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_complex():
        return False
    stored = value.untyped_storage().nbytes() // value.element_size()
    return value.numel() <= stored and bool(not value.is_floating_point() or value.isfinite().all())


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
        raise UserError(f"{path}: there is no network {target} in {networks.__name__}")
    prefix = "network."
    weights = {
        name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)
    }
    data = checkpoint["hyper_parameters"]["data"]
    try:
        with torch.device("meta"):  # shapes alone: whatever sizes the settings name take no memory
            network = network_class(**settings)
            answer = network.eval()(torch.empty(1, data["channels"], data["image_size"], data["image_size"]))
            if answer.shape != (1, len(data["class_names"])):
                raise ValueError(f"{answer.shape[-1]} answers for {len(data['class_names'])} classes")
        network.train().load_state_dict(weights, assign=True)  # in the type that they were saved in
    except Exception as error:  # settings of any kind can break a network anywhere
        reason = textwrap.shorten(str(error), 300)
        raise UserError(
            f"{path}: its weights are another architecture's than its settings say ({target}): {reason}"
        ) from error
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
    if unknown := asked.keys() - inspect.signature(DigitsDataModule).parameters.keys():
        raise UserError(f"data.{min(unknown)}: no setting of the data. Another data set is data.dataset=...")
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
