"""The data that a checkpoint was trained on, or another data set in the same form."""

import inspect
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from digits.data.datasets import named
from digits.data.module import DigitsDataModule
from digits.errors import UserError

SPLIT_SETTINGS = ("subset", "val_size", "test_size", "folds", "fold")  # of one data set: another has its own


def restore_data(trained: dict[str, Any], **overrides: Any) -> DigitsDataModule:
    """Loads the data that a checkpoint was trained on, in the same splits and form, or what the overrides ask for.

    Without an override of `root`, it is DIGITS_DATA, else where training found the data, else `data`; for an
    `image_folder`, which DIGITS_DATA does not hold, where training found it.

    Args:
        trained: the settings of the data in a checkpoint.
        overrides: arguments of `DigitsDataModule`; None counts as not given.

    Raises:
        UserError: if the data cannot be had, the checkpoint's network has seen it all in training, or classes or
            form of the images are not those of the network.
    """
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

    if trained["dataset"] in data.data_set.within:
        raise UserError(
            f"data.dataset={data.dataset}: no test set for this checkpoint, which was trained on {trained['dataset']}:"
            f" all of {data.dataset} are training images of {trained['dataset']}"
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


def check_one_test_set(trained: Mapping[str, dict[str, Any]]) -> None:
    """Refuses checkpoints that cannot be tested on the same images in the same form.

    Raises:
        UserError: naming two of them and the setting in which they differ.
    """
    (first, reference), *others = trained.items()
    data_set = named(reference["dataset"])
    official = data_set.has_test_images and not reference["folds"]
    free = {"val_size", "root", *(["split_seed"] if official else [])}  # these leave the test images as they are
    if data_set.own_root:
        free.remove("root")
    for path, settings in others:
        for name in reference:
            if name not in free and settings[name] != reference[name]:
                raise UserError(
                    f"ckpt_path: {first} and {path} have no test set in common: data.{name} is {reference[name]} for"
                    f" the one and {settings[name]} for the other"
                )


def _root(trained: dict[str, Any], dataset: str) -> str | None:
    """Where to look for the data, if nothing else is said."""
    own = named(trained["dataset"]).own_root
    if named(dataset).own_root:
        return trained["root"] if trained["dataset"] == dataset else None
    if root := os.environ.get("DIGITS_DATA"):
        return root
    here = not own and Path(trained["root"]).is_dir()
    return trained["root"] if here else "data"  # a checkpoint may come from another machine
