"""Knowledge distillation: trained networks label the training images, beside their true classes.

Source: Hinton et al., Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531. There the
student's logits are divided by the temperature too. Here only the teacher's are: the student's are then smaller by this
factor, which changes none of its answers, and which its calibration makes up for (`digits.calibration`). So the loss
stays any loss that takes the probabilities of classes.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.data.images import image_hashes
from digits.data.settings import DataSettings, TrainedData
from digits.errors import UserError
from digits.networks import Ensemble, RawPixels
from digits.validation import Settings, as_typed

if TYPE_CHECKING:
    from digits.data.own_module import OwnDataModule

SAME_DATA = ("dataset", "subset", "fingerprint")
SPLIT = ("val_size", "test_size", "split_seed", "folds", "fold")  # what decides which images are trained on


class DistillationSettings(Settings):
    """The group `distillation` of configs/train.yaml."""

    weight: Annotated[float, Field(ge=0, le=1)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Teacher:
    """Labels images by trained networks. It is no part of the network that is trained, nor of its checkpoints.

    Args:
        checkpoints: of the networks; of several, the mean of their probabilities counts.
        settings: `weight`, the teacher's share in each target, and `temperature`, by which its logits are divided.

    Raises:
        UserError: if a checkpoint names code that is not trusted, or its weights do not fit.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], settings: DistillationSettings) -> None:
        self.weight, self.temperature = settings.weight, settings.temperature
        self.facts = [
            {"ckpt_path": str(one.path.absolute()), "model": _class_name(one), "fingerprint": fingerprint(one)}
            for one in checkpoints
        ]
        with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay as they are
            members = [
                RawPixels(one.network().float(), one.facts.mean, one.facts.std) for one in checkpoints
            ]  # each normalises the images, and resizes them, as it was trained
        network = Ensemble(members) if len(members) > 1 else members[0]
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._device = torch.device("cpu")

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as plain types: the networks by their content, wherever their files are."""
        teachers = [one["fingerprint"] for one in self.facts]
        return {"teachers": teachers, "weight": self.weight, "temperature": self.temperature}

    @torch.no_grad()
    def __call__(self, images: Tensor, target: Tensor, precision: AbstractContextManager) -> Tensor:
        """The targets to train on (B, num_classes): (1 - weight) of the true ones, and weight of the teacher's.

        Args:
            images: (B, C, H, W) in [0, 1], augmented: as the network in training gets them before normalisation.
            target: (B,), or mixed (B, num_classes).
            precision: to compute in.
        """
        if self._device != images.device:
            self.network, self._device = self.network.to(images.device), images.device
        with precision:
            logits = self.network(255 * images).float()
        answers = (logits / self.temperature).softmax(dim=1)
        true = F.one_hot(target, answers.shape[1]) if target.ndim == 1 else target
        return torch.lerp(true.float(), answers, self.weight)

    def __str__(self) -> str:
        paths = ", ".join(f"{one['ckpt_path']} ({one['model']})" for one in self.facts)
        of = f"the mean of {len(self.facts)} networks, " if len(self.facts) > 1 else ""
        return f"weight {self.weight:g}, temperature {self.temperature:g}, {of}{paths}"


def open_teachers(
    paths: str | Sequence[str], data: "DigitsDataModule | OwnDataModule", trust: Collection[str]
) -> list[Checkpoint]:
    """The checkpoints that are to teach on some data.

    Args:
        paths: of a checkpoint or a run's folder, or of several.
        data: loaded.
        trust: packages whose code a checkpoint may name.

    Raises:
        UserError: if a file is none, is there twice, knows other classes, was trained on other data, or on images that
            are held out here to choose or to test.
    """
    given = [paths] if isinstance(paths, str) else paths
    checkpoints = [Checkpoint.open(str(path), trust) for path in given]
    known: dict[str, Checkpoint] = {}
    for one in checkpoints:
        problem = _problem(TrainedData.model_validate(one.settings["data"]), data)
        if twin := known.get(fingerprint(one)):
            problem = f"the same network as {twin.path}: it would only count double"
        if problem:
            raise UserError(f"teacher={one.path}: {problem}")
        known[fingerprint(one)] = one
    return checkpoints


def fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of a checkpoint's network: of its settings, its normalisation and its weights, not of the file."""
    settings, facts = checkpoint.settings, checkpoint.facts
    digest = hashlib.blake2b(
        json.dumps([settings["model"], facts.mean, facts.std], sort_keys=True, default=str).encode(), digest_size=8
    )
    for name, value in sorted(checkpoint.content["state_dict"].items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _class_name(checkpoint: Checkpoint) -> str:
    model = checkpoint.settings["model"]
    return str(model.get("network", model)["_target_"]).rpartition(".")[2]


def _problem(kept: TrainedData, data: "DigitsDataModule | OwnDataModule") -> str:
    """Why a network that was trained on some data cannot teach on other data; empty where it can."""
    ours, theirs = data.settings, kept.model_dump()
    other = next((name for name in SAME_DATA if ours[name] != theirs[name]), "")
    if ours["class_names"] != theirs["class_names"]:
        return f"knows other classes than {data.dataset} has. Give one that was trained on {data.dataset}"
    if other == "fingerprint":
        return f"the images of {data.dataset} are not those that it was trained on any more. Train it on these"
    if other:
        was, now = as_typed(theirs[other]), as_typed(ours[other])
        return (
            f"was trained with data.{other}={was}, and this run has {now}: it may know images that are held out here."
            " Give one that was trained on this run's data"
        )
    differ = [name for name in SPLIT if ours[name] != theirs[name]]
    if not differ or not isinstance(data, DigitsDataModule):
        return ""
    split = " ".join(f"data.{name}={as_typed(ours[name])}" for name in differ)
    return (seen := _seen(kept, data)) and (
        f"was trained on {seen} of this run, and so would flatter what these choose or test. Train it with {split}"
    )


def _seen(kept: TrainedData, data: DigitsDataModule) -> str:
    """Which images that are held out here a network was trained on in its own split of the same data.

    Those that are among the training images here too, as exact copies, do not count.
    """
    theirs = DigitsDataModule(**kept.model_dump(include={*DataSettings.model_fields}))
    trained = {*image_hashes(theirs.cut(data.data_set.load()).train.images)}
    trained -= {*image_hashes(data.splits.train.images)}
    held_out = {"validation": data.splits.val.images, "test": data.splits.test.images}
    counts = {name: sum(one in trained for one in image_hashes(images)) for name, images in held_out.items()}
    return " and ".join(
        f"{count:,} of {len(held_out[name]):,} {name} images" for name, count in counts.items() if count
    )
