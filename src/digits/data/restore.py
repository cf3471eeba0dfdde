"""The data that a checkpoint was trained on, or another data set in the same form."""

import logging
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from digits.data.datasets import form_of, named
from digits.data.folder import ImageFolder
from digits.data.images import Loaded, fingerprint, image_hashes
from digits.data.module import DigitsDataModule
from digits.data.settings import DataSettings, TrainedData
from digits.data.splits import Splits
from digits.errors import UserError

log = logging.getLogger(__name__)

SPLIT_SETTINGS = ("subset", "val_size", "test_size", "folds", "fold")  # of one data set: another has its own
TEST_SPLIT = ("test_size", "folds", "fold", "split_seed")  # these decide which images are kept from training


def restore_data(trained: dict[str, Any], **overrides: Any) -> DigitsDataModule:
    """Loads the data that a checkpoint was trained on, in the same splits and form, or what the overrides ask for.

    No image that was in training is among the test images. Where the content of an `image_folder` is not that of
    training, every image that was in neither training nor validation is tested. Another data set without official
    test images is tested as a whole; the pictures of an `image_folder` are then brought into the form of the
    checkpoint's images, as `digits.predict` does it.

    Without an override of `root`, it is DIGITS_DATA, else where training found the data, else `data`; for an
    `image_folder`, which DIGITS_DATA does not hold, where training found it.

    Args:
        trained: the settings of the data in a checkpoint.
        overrides: arguments of `DigitsDataModule`; None counts as not given.

    Raises:
        UserError: if the data cannot be had, the checkpoint's network has seen it all in training, or classes or
            form of the images are not those of the network.
    """
    kept = TrainedData.model_validate(trained)
    asked = {name: value for name, value in overrides.items() if value is not None}
    dataset = asked.get("dataset", kept.dataset)
    settings = {name: value for name, value in trained.items() if name in DataSettings.model_fields}
    if dataset != kept.dataset:
        settings = {name: value for name, value in settings.items() if name not in SPLIT_SETTINGS}
    settings["root"] = _root(kept, dataset)
    fixed = TEST_SPLIT if dataset == kept.dataset else ("folds",)
    for name, value in asked.items():
        problem = ""
        if name not in DataSettings.model_fields:
            problem = "no setting of the data. Another data set is data.dataset=..."
        elif name in fixed and value != settings.get(name):
            problem = f"images of training would be tested. Leave it as it was in training ({settings.get(name)})"
        if problem:
            raise UserError(f"data.{name}={value}: {problem}")
    data = DigitsDataModule(**{"offline_fallback": False, **settings, **asked})
    data.prepare_data()
    if data.dataset != dataset:  # the stand-in, which may be what the checkpoint was trained on
        return restore_data(trained, **asked | {"dataset": data.dataset})
    if data.data_set.has_test_images or (data.dataset == kept.dataset and not data.data_set.own_root):
        data.setup()
        _check_fits(data, kept)
        same = (data.dataset, data.subset) == (kept.dataset, kept.subset)
        if same and kept.fingerprint != data.fingerprint:
            rank_zero_only(log.warning)(
                f"data.dataset={data.dataset}: its content is not what the network was trained on; the figures are of"
                " other images"
            )
    else:
        _test_unseen(data, kept)
    return data


def _test_unseen(data: DigitsDataModule, kept: TrainedData) -> None:
    """Loads data without official test images, and has `test` be what was neither in training nor in validation."""
    data_set, same = data.data_set, data.dataset == kept.dataset
    if isinstance(data_set, ImageFolder) and not same:
        loaded = data_set.load(form_of(kept.dataset, kept.image_size, kept.channels))
    else:
        loaded = data_set.load()
    if same and kept.fingerprint == fingerprint(loaded):
        data.use(loaded, data.cut(loaded))
    else:
        data.use(loaded, _unseen(loaded, kept.seen or [], f"{data.root if data_set.own_root else data.dataset}"))
    _check_fits(data, kept)


def _unseen(loaded: Loaded, seen: list[str], name: str) -> Splits:
    """The images of training as `train`, and all others as `test`."""
    images = loaded.train
    known = np.isin(image_hashes(images.images), seen)
    if known.all():
        raise UserError(f"{name}: all of its {len(images)} images were in training. Add others to test on")
    if known.any():
        rank_zero_only(log.warning)(
            f"{name}: its images are not those of training any more. {known.sum()} of {len(images)} images were in"
            f" training or validation: left out. All {(~known).sum()} others are tested"
        )
    return Splits(
        images.subset(np.flatnonzero(known)), images.subset(np.arange(0)), images.subset(np.flatnonzero(~known))
    )


def _check_fits(data: DigitsDataModule, kept: TrainedData) -> None:
    """Refuses images that the network has seen, or of other classes than its own, or of another form."""
    problem = ""
    form, known = (data.image_size, data.in_channels), (kept.image_size, kept.channels)
    if kept.dataset in data.data_set.within:
        problem = (
            f"no test set for this checkpoint, which was trained on {kept.dataset}: all of {data.dataset} are training"
            f" images of {kept.dataset}"
        )
    elif list(data.class_names) != kept.class_names:
        have, want = (textwrap.shorten(", ".join(names), 100) for names in (data.class_names, kept.class_names))
        problem = f"its classes ({have}) are not those that the checkpoint knows ({want})"
    elif form != known:
        have, want = (f"{size}×{size} pixels, {channels} channel(s)" for size, channels in (form, known))
        problem = f"its images ({have}) are not as the checkpoint's ({want})"
    if problem:
        raise UserError(f"data.dataset={data.dataset}: {problem}")


def check_one_test_set(trained: Mapping[str, dict[str, Any]]) -> None:
    """Refuses checkpoints that cannot be tested on the same images in the same form.

    Raises:
        UserError: naming two of them and the setting in which they differ.
    """
    (first, reference), *others = trained.items()
    data_set = named(reference["dataset"])
    official = data_set.has_test_images and not reference["folds"]
    free = {
        "val_size",
        "seen",
        "root",
        *(["split_seed"] if official else []),
    }  # these leave the test images as they are
    for path, settings in others:
        for name in sorted(reference.keys() - free):
            if settings[name] != reference[name]:
                raise UserError(
                    f"ckpt_path: {first} and {path} have no test set in common: data.{name} is {reference[name]} for"
                    f" the one and {settings[name]} for the other"
                )


def _root(kept: TrainedData, dataset: str) -> str | None:
    """Where to look for the data, if nothing else is said."""
    own = named(kept.dataset).own_root
    if named(dataset).own_root:
        return kept.root if kept.dataset == dataset else None
    if root := os.environ.get("DIGITS_DATA"):
        return root
    return kept.root if not own and Path(kept.root).is_dir() else "data"  # it may come from another machine
