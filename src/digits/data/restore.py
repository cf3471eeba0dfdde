"""The data that a checkpoint was trained on, or another data set in the same form."""

import logging
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from digits.data.datasets import named
from digits.data.folder import ImageFolder
from digits.data.images import fingerprint, image_hashes
from digits.data.module import DigitsDataModule
from digits.data.own_module import OwnDataModule
from digits.data.settings import DataSettings, TrainedData
from digits.data.splits import Splits
from digits.errors import UserError
from digits.model_facts import ModelFacts

log = logging.getLogger(__name__)

SPLIT_SETTINGS = {"subset", "val_size", "test_size", "folds", "fold"}  # of one data set: another has its own
FORM = {"image_size", "channels", "mean", "std"}  # what the network was trained with, it is tested with
TEST_SPLIT = {"test_size", "folds", "fold", "split_seed"}  # these decide which images are kept from training


def restore_data(trained: dict[str, Any], **overrides: Any) -> DigitsDataModule:
    """Loads the data that a checkpoint was trained on, in the same splits and form, or what the overrides ask for.

    No image that was in training is among the test images. Where the content of an `image_folder` is not that of
    training, every image that was in neither training nor validation is tested. Another data set without official
    test images is tested as a whole; the pictures of an `image_folder` are then brought into the form of the
    checkpoint's images, as `digits.predict` does it.

    Without an override of `root`, it is DIGITS_DATA, else where training found the data, else `data`; for an
    `image_folder`, which DIGITS_DATA does not hold, where training found it. An override of None is none.

    Raises:
        UserError: if the data cannot be had, the checkpoint's network has seen it all in training, or classes or
            form of the images are not those of the network.
    """
    kept = TrainedData.model_validate(trained)
    asked = {name: value for name, value in overrides.items() if value is not None}
    dataset = asked.get("dataset", kept.dataset)
    same = dataset == kept.dataset
    if same and kept.module is not None:
        return _restore_module(kept, kept.module, asked)
    settings = kept.model_dump(include=DataSettings.model_fields.keys() - ({} if same else SPLIT_SETTINGS))
    settings["root"] = root_of(kept, dataset)
    kept_apart, problem = TEST_SPLIT if same else {"folds"}, ""
    others = {name: value for name, value in asked.items() if name not in kept_apart}
    data = DigitsDataModule(**{"offline_fallback": False, **settings, **others})
    for name in sorted(asked):
        if name in FORM and getattr(data.options, name) != getattr(kept, name):
            problem = f"the network was trained with {getattr(kept, name)}. Leave it out"
        elif name in kept_apart and asked[name] != settings.get(name):
            was = settings.get(name)
            problem = f"images of training would be tested. Leave it as it was in training ({was})"
        if problem:
            raise UserError(f"data.{name}={asked[name]}: {problem}")
    data.prepare_data()
    if data.dataset != dataset:  # the stand-in, which may be what the checkpoint was trained on
        return restore_data(trained, **asked | {"dataset": data.dataset})
    if (data.data_set.has_test_images or same) and not data.data_set.own_root:
        data.setup()
        if same and data.options.subset == kept.subset:
            _warn_of_other_content(data, kept)
    else:
        _test_unseen(data, kept)
    _check_fits(data, kept)
    return data


def _restore_module(kept: TrainedData, module: dict[str, Any], asked: dict[str, Any]) -> Any:
    """Makes a data module of the user's own again."""
    settable = {"dataset", "offline_fallback", *(["root"] if kept.root else [])}
    problem = ""
    if others := sorted(asked.keys() - settable):
        problem = f"data.{others[0]}={asked[others[0]]}: {kept.dataset} has the settings of training. Leave it out"
    elif module.get("_target_") != kept.dataset:
        problem = f"data.dataset={kept.dataset}: the checkpoint names another data module, {module.get('_target_')}"
    if problem:
        raise UserError(problem)
    root = {"root": asked.get("root", kept.root)} if kept.root else {}
    data = OwnDataModule({**module, **root})
    data.prepare_data()
    data.setup()
    _warn_of_other_content(data, kept)
    _check_fits(data, kept)
    return data


def _warn_of_other_content(data: DigitsDataModule | OwnDataModule, kept: TrainedData) -> None:
    if data.fingerprint != kept.fingerprint:
        rank_zero_only(log.warning)(
            f"data.dataset={data.dataset}: its content is not what the network was trained on; the figures are of"
            " other images"
        )


def _test_unseen(data: DigitsDataModule, kept: TrainedData) -> None:
    """Loads data that may hold images of training or validation, and has `test` be what was in neither.

    Where the data has test images of its own, only these are tested.
    """
    data_set, same = data.data_set, data.dataset == kept.dataset
    if isinstance(data_set, ImageFolder) and not same:
        loaded = data_set.load(ModelFacts.of(kept.model_dump()).form)
    else:
        loaded = data_set.load()
    if same and kept.fingerprint == fingerprint(loaded):
        data.use(loaded, data.cut(loaded))
        return
    images = loaded.train if loaded.test is None else loaded.test
    seen = np.isin(image_hashes(images.images), kept.seen or [])
    if 0 < seen.sum() < len(images):
        rank_zero_only(log.warning)(
            f"{_offender(data)}: its images are not those of training any more. {seen.sum()} of {len(images)} images"
            f" were in training or validation: left out. All {(~seen).sum()} others are tested"
        )
    train, val, test = map(images.subset, (np.flatnonzero(seen), np.arange(0), np.flatnonzero(~seen)))
    data.use(loaded, Splits(train, val, test))


def _check_fits(data: DigitsDataModule | OwnDataModule, kept: TrainedData) -> None:
    """Refuses images that the network has seen, or of other classes than its own, or of another form."""
    problem = ""
    if isinstance(data, DigitsDataModule) and kept.dataset in data.data_set.within:
        problem = (
            f"no test set for this checkpoint, which was trained on {kept.dataset}: all of {data.dataset} are training"
            f" images of {kept.dataset}"
        )
    elif not len(data.splits.test) and kept.module is not None and data.dataset == kept.dataset:
        problem = "it has no test_dataloader, so that there is nothing to test"
    elif not len(data.splits.test):
        problem = f"all of its {len(data.splits.train)} images were in training. Add others to test on"
    elif list(data.class_names) != kept.class_names:
        have, want = (textwrap.shorten(", ".join(names), 100) for names in (data.class_names, kept.class_names))
        problem = f"its classes ({have}) are not those that the checkpoint knows ({want})"
    elif (data.image_size, data.in_channels) != (kept.image_size, kept.channels):
        problem = (
            f"its images ({data.image_size}×{data.image_size} pixels, {data.in_channels} channel(s)) are not as the"
            f" checkpoint's ({kept.image_size}×{kept.image_size} pixels, {kept.channels} channel(s))"
        )
    if problem:
        raise UserError(f"{_offender(data)}: {problem}")


def _offender(data: DigitsDataModule | OwnDataModule) -> str:
    if isinstance(data, DigitsDataModule) and data.data_set.own_root:
        return f"data.root={data.root}"
    return f"data.dataset={data.dataset}"


def check_one_test_set(trained: Mapping[str, dict[str, Any]]) -> None:
    """Refuses checkpoints that cannot be tested on the same images in the same form.

    Raises:
        UserError: naming two of them and the setting in which they differ.
    """
    (first, reference), *others = trained.items()
    official = reference["test_size"] is None and not reference["folds"]  # no test images were cut
    free = {"val_size", "seen", "root", "module"} | (
        {"split_seed"} if official else set()
    )  # the test images stay the same
    for path, settings in others:
        for name in sorted(reference.keys() - free):
            if settings[name] != reference[name]:
                problem = "take their images in different forms" if name in FORM else "have no test set in common"
                raise UserError(
                    f"ckpt_path: {first} and {path} {problem}: data.{name} is {reference[name]} for the one and"
                    f" {settings[name]} for the other"
                )


def root_of(kept: TrainedData, dataset: str) -> str | None:
    """Where to look for the data, if nothing else is said."""
    if named(dataset).own_root:
        return kept.root if kept.dataset == dataset else None
    found = (
        kept.module is None and not named(kept.dataset).own_root and Path(kept.root).is_dir()
    )  # it may come from another machine
    return os.environ.get("DIGITS_DATA") or (kept.root if found else "data")
